"""The log: heads, events, commands, snapshots; keys, checkpoints, quarantine and the fates of timers."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())
