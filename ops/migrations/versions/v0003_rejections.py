"""Indexes by which refused commands are counted without reading the accepted ones."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Straight to the driver: the script is many statements and holds percent signs of its own.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None, "a migration runs on a connection"
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
