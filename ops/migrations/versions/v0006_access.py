"""Keys that are rotated, when they were used, and the access log."""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Straight to the driver: the script is many statements.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None, "a migration runs on a connection"
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
