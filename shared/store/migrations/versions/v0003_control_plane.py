"""What the control plane says of a session, and what operators set for a fleet."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("served_rung", sa.Text, nullable=False, server_default=""))
    op.add_column("sessions", sa.Column("decision", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "fleet_controls",
        sa.Column("cell", sa.Text, nullable=False),
        sa.Column("minimum", sa.Integer),
        sa.Column("maximum", sa.Integer),
        sa.Column("spare", sa.Integer),
        sa.Column("frozen", sa.Boolean),
        sa.Column("dry_run", sa.Boolean),
        sa.PrimaryKeyConstraint("cell", name="pk_fleet_controls"),
    )
