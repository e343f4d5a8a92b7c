"""What goes in and comes out beside the domain's commands and the queries' rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from commands._codec import EPOCH, context_of, decode_event, event_encoder
from domain._kernel import kebab

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

R = TypeVar("R")

SIGNED_FOR_S = 300
MICROSECONDS = 1_000_000


class Dataclass(Protocol):
    """A command of the domain, such as `Transfer("wallet:ana", "wallet:ben", 5_000_000)`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Raw:
    """A command by its name, such as `ledger/transfer`, and the body as it is sent: amounts as decimal strings."""

    name: str
    body: dict[str, Any]


Command = Dataclass | Raw


@dataclass(frozen=True, slots=True)
class Event:
    """An event as the log holds it. Answers of commands show it without `meta`, `recorded_at` and `leaf`."""

    position: int
    stream: str
    """Such as `wallet:ana`."""
    version: int
    """Its place in the stream."""
    type: str
    data: dict[str, Any]
    """As it is stored: amounts are decimal strings, times RFC 3339."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Command, caller, correlation and causation."""
    recorded_at: datetime = EPOCH
    leaf: str = ""
    """Its leaf hash in the zone's tree, in hex."""

    @property
    def domain(self) -> Any:
        """The event as the domain's own dataclass, such as `Debited`."""
        return decode_event(self.type, msgspec.json.encode(self.data))


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a command came to: its events are durable at their positions."""

    command_id: str
    zone: str
    position: int
    """Of its last event, or where the log was when it decided that there was nothing to do."""
    events: list[Event]
    again: bool = False
    """It was sent before under this key, and done once."""


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some items of a query."""

    position: int
    """In the log: what the items reflect."""
    items: list[R]
    next: str | None
    """The cursor of the next page: give it as `after`."""
    quarantined: int
    """Events that the query's projection could not digest: where it is not 0, items may miss something."""


@dataclass(frozen=True, slots=True)
class Difference(Generic[R]):
    """A row that is not the same as of two moments; None where there is no such row."""

    key: dict[str, Any]
    was: R | None
    now: R | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A page of the log."""

    head: int
    """The log's last position."""
    events: list[Event]
    next: int | None
    """Behind this position the next page begins; None at the end."""


@dataclass(slots=True)
class Signer:
    """Signs commands in a principal's name (`register-signing-key` has made the key known): whoever sends them needs a
    key of the API, but not this principal's.

    Nonces rise with the time, so that two signers of the same principal need not know of each other. Commands reach the
    zone in the order of their nonces: send one after another, or many with `send_many`.
    """

    principal: str
    key: Ed25519PrivateKey
    last_nonce: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def signed(self, zone: str, command: Command, body: bytes) -> dict[str, Any]:
        """What comes with a command that is sent now. Raises TypeError for a Raw one, of which nothing says what in it
        is personal."""
        if isinstance(command, Raw):
            raise TypeError("only commands of the domain are signed")
        # Most clients sign nothing, and should not pay for what it takes.
        from commands._signatures import public_key, sign
        from commands._signed import canonical, commitment
        from commands._subjects import personal_fields
        from domain.principals import command_statement

        now = time.time()
        with self._lock:
            nonce = self.last_nonce = max(self.last_nonce + 1, int(now * MICROSECONDS))
        said = msgspec.json.decode(body)
        personal = [name for name in personal_fields(type(command)) if said.get(name)]
        salt = token_hex(32)
        said |= {name: commitment(salt, said[name]) for name in personal}
        expires = int(now) + SIGNED_FOR_S
        statement = command_statement(zone, self.principal, name_of(command), nonce, expires, canonical(said))
        made = {
            "principal": self.principal,
            "key": public_key(self.key),
            "nonce": nonce,
            "expires": expires,
            "signature": sign(self.key, statement),
        }
        return made | ({"salt": salt} if personal else {})


@dataclass(slots=True)
class Terms:
    """On which a client speaks: about which zone, as whom, and what it has seen of it."""

    zone: str = "main"
    act_as: str = ""
    trust: Sequence[str] = ()
    """Verifier keys of the zone's log that were got elsewhere."""
    signer: Signer | None = None
    seen: int = 0
    """The position that queries wait for: that of what this client wrote or read last."""

    def saw(self, position: int | None) -> None:
        self.seen = max(self.seen, position or 0)


def name_of(command: Command) -> str:
    """`ledger/transfer`"""
    if isinstance(command, Raw):
        return command.name
    return f"{context_of(type(command))}/{kebab(type(command).__name__)}"


def body_of(command: Command) -> bytes:
    """A command as a client sends it: amounts as decimal strings, times as RFC 3339."""
    if isinstance(command, Raw):
        return msgspec.json.encode(command.body)
    said = event_encoder(type(command))(command)
    # Fields whose names are words of Python, such as `from_`, have theirs without the stroke.
    return msgspec.json.encode(_renamed(msgspec.json.decode(said))) if b'_"' in said else said


def _renamed(said: Any) -> Any:
    if isinstance(said, dict):
        return {name.removesuffix("_"): _renamed(value) for name, value in said.items()}
    return [_renamed(each) for each in said] if isinstance(said, list) else said


fresh = partial(token_hex, 16)
"""An idempotency key."""
