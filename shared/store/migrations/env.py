"""Called by Alembic, from `shared.store.migrate` with a connection inside a transaction."""

from alembic import context

from shared.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
