"""The tables, for SQLAlchemy core. A change here needs a new file in `migrations/versions`."""

from __future__ import annotations

import sqlalchemy as sa

# Names of constraints must be the same on every database, or a later migration can't find them.
metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("cell", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("given_epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("inputs_version", sa.BigInteger, nullable=False),
    sa.Column("next_chunk", sa.BigInteger, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("incarnation", sa.Text, nullable=False),
    sa.Column("rung", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("max_chunks", sa.BigInteger),
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Column("granted_through", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("unwatched_since", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_digest", sa.Text, nullable=False),
    sa.Column("traceparent", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("served_rung", sa.Text, nullable=False, server_default=""),
    sa.Column("decision", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index(None, "tenant", "created_at", "id"),
    sa.Index(None, "ended_at"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("published_at", sa.Double),
    sa.UniqueConstraint("id"),
    sa.Index(None, "published_at", "sequence"),
    sqlite_autoincrement=True,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

# What operators set (`SetFleet`), one row a cell; NULL: the autoscaler's own setting holds.
fleet_controls = sa.Table(
    "fleet_controls",
    metadata,
    sa.Column("cell", sa.Text, primary_key=True),
    sa.Column("minimum", sa.Integer),
    sa.Column("maximum", sa.Integer),
    sa.Column("spare", sa.Integer),
    sa.Column("frozen", sa.Boolean),
    sa.Column("dry_run", sa.Boolean),
)
