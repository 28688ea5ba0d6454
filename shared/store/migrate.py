"""Bring a database's schema to the one this version of the project knows, by Alembic."""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

_FOLDER = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x7475_7262_6F73  # any number, as long as every process uses the same


def migrate(connection: sa.Connection) -> str:
    """Run what is missing, inside the caller's transaction. Returns "" or what is in the way, for a person to
    read."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config)
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        return f"its schema {current!r} is newer than this version of turboserve knows; upgrade turboserve"
    if current != scripts.get_current_head():
        command.upgrade(config, "head")
    return ""
