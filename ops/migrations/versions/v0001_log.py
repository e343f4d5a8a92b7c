"""The log: heads, events, commands, snapshots; keys, checkpoints, quarantine and the fates of timers."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    # Straight to the driver: the script is many statements and holds percent signs of its own.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None, "a migration runs on a connection"
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
