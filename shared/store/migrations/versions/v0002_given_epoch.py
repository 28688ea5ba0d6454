"""The highest epoch ever given of each session: a move names one before it is decided."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("given_epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE sessions SET given_epoch = epoch")
