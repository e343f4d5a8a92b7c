"""The zone's own commands over HTTP."""

from commands._routes import OPERATOR, Context
from domain.platform import AdvanceClock

platform = Context(__name__)

platform.post(AdvanceClock, OPERATOR)
