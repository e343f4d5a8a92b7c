"""Alembic's entry point. Two upgrades at once would collide, so they queue on an advisory lock."""

from alembic import context
from sqlalchemy import text

ADVISORY_LOCK = 7_045_061_001

connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=False)
with context.begin_transaction():
    connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
    context.run_migrations()
