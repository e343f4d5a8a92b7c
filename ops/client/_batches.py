"""Many commands in one request, of which some may have to go again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ops.client._errors import LATER, FogbookError, Later, Problem, error_in, error_of
from ops.client._steps import Broken, Io, Reply, Request, Steps
from ops.client._values import Accepted, Command, Raw, Terms, body_of, fresh, name_of

MOST_BYTES = 4 * 1024 * 1024
"""The server takes no more at once."""
ACCEPTED = 200


class _Line(msgspec.Struct):
    status: int
    body: msgspec.Raw


_line = msgspec.json.Decoder(_Line).decode
_accepted = msgspec.json.Decoder(Accepted).decode
_problem = msgspec.json.Decoder(Problem).decode


def lines_of(terms: Terms, commands: Sequence[Command], keys: Sequence[str]) -> list[bytes]:
    """Raises ValueError where keys are given, but not one for each."""
    given = keys or [fresh() for _ in commands]
    return [_one(terms, command, key) for command, key in zip(commands, given, strict=True)]


def _one(terms: Terms, command: Command, key: str) -> bytes:
    body = command.body if isinstance(command, Raw) else msgspec.Raw(body_of(command))
    context, _, name = name_of(command).partition("/")
    line: dict[str, Any] = {"context": context, "command": name, "key": key, "body": body}
    if terms.signer is not None:
        line["signed"] = terms.signer.signed(terms.zone, command, body_of(command))
    return msgspec.json.encode(line)


def batches(lines: Sequence[bytes], at_once: int) -> Iterator[list[bytes]]:
    """In their order, each within what the server takes."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and (len(part) == at_once or size + len(line) + 1 > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    if part:
        yield part


class Batch:
    """Its lines, and what became of each."""

    def __init__(self, io: Io, headers: Mapping[str, str], lines: list[bytes]) -> None:
        self._io = io
        self._headers = headers
        self._lines = lines
        self._outcomes: list[Accepted | FogbookError | None] = [None] * len(lines)

    @property
    def is_begun(self) -> bool:
        """Something was decided."""
        return any(outcome is not None for outcome in self._outcomes)

    def attempt(self) -> Steps[None]:
        """Send what is not decided. Raises FogbookError, Broken, and Later while something is left."""
        left = [place for place, outcome in enumerate(self._outcomes) if outcome is None]
        body = b"\n".join([self._lines[place] for place in left])
        reply: Reply = yield partial(self._io.exchange, Request("POST", "/commands", {}, self._headers, body))
        if reply.status != ACCEPTED:
            error = error_in(*reply)
            raise Later(error) if reply.status in LATER else error
        answers = reply.body.splitlines()
        if len(answers) != len(left):
            raise Broken(f"{len(left)} commands got {len(answers)} answers.")
        last: FogbookError | None = None
        for place, answer in zip(left, answers, strict=True):
            line = _line(answer)
            if line.status == ACCEPTED:
                self._outcomes[place] = _accepted(line.body)
            elif line.status in LATER:
                last = error_of(line.status, _problem(line.body))
            else:
                self._outcomes[place] = error_of(line.status, _problem(line.body))
        if last is not None:
            raise Later(last)

    def give_up(self, error: FogbookError) -> None:
        """What is not decided by now came to this."""
        self._outcomes = [error if outcome is None else outcome for outcome in self._outcomes]

    def told(self) -> list[Accepted | FogbookError]:
        return [outcome for outcome in self._outcomes if outcome is not None]
