"""The log is written by functions that own the rights to, and by nobody else."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # Straight to the driver: the script is many statements.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None, "a migration runs on a connection"
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
