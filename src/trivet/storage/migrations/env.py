"""Alembic's entry: runs the migrations on the connection that Trivet hands in."""

from alembic import context

from trivet.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
# Trivet began the transaction and ends it.
context.run_migrations()
