"""What became of operators' acts on read models; the stack of an event set aside, and that it was discarded."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # Straight to the driver: the script is many statements.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None, "a migration runs on a connection"
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
