"""Our command routes in front of nothing that answers in bursts: all that wait, 2 ms after the first began to.

So come the answers of anything that commits in groups. A no-op that answers each request at once spares its clients
and itself the waiting, and the work of waking up for many answers at a time.
"""

import asyncio

from commands._deciding import Command, Outcome
from ops.bench.peers.same_route import ANSWER, Nothing, make_app

BURST_S = 0.002


class Bursts(Nothing):
    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Outcome]] = []

    def submit(self, command: Command) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(BURST_S, self._release)
        self._waiting.append(loop.create_future())
        return self._waiting[-1]

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.done():
                answer.set_result(ANSWER)


app = make_app(Bursts())
