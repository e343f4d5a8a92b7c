"""What every context is made of: streams, decisions and rules.

A *stream* is the history of one thing (`validator:v1`), folded by `evolve` into its state. A *decision* is a
generator: it reads states, raises a rule or yields `(where, event)` pairs. Whoever runs it applies each pair
before it goes on, so that a later read in the same decision sees what was decided so far.

Everything here is pure and needs the standard library only.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar, get_args

S = TypeVar("S")

# Field types. The second part names the kind; the edge of the system (HTTP, stored JSON) checks and converts
# by it, so that a command's dataclass is the only place that says what its fields are.

Amount = Annotated[int, "amount"]
"""Smallest units of an asset, 1 <= amount < 10**38 in a command; a decimal-integer string in JSON."""
Quantity = Annotated[int, "quantity"]
"""Like an amount, but zero is allowed."""
BasisPoints = Annotated[int, "basis_points"]
"""A rate or share in 1/10,000; 0 to 10,000."""
Count = Annotated[int, "count"]
"""A small number, 0 <= count < 2**31."""
SmallInt = Annotated[int, "small_int"]
"""A small number that may be negative (a temperature, say), -2**31 < number < 2**31."""
Id = Annotated[str, "id"]
"""Trimmed, lower case, `[a-z0-9._-]{1,64}`."""
Path = Annotated[str, "path"]
"""One to three ids joined by `:`."""
AccountId = Annotated[str, "account"]
"""A path that begins as accounts do, such as `wallet:ana:savings` or `treasury`."""
WalletId = Annotated[str, "wallet"]
"""A wallet in full, such as `wallet:ana:savings`; at the edge the leading `wallet:` may be left out."""
AssetCode = Annotated[str, "asset"]
"""`[A-Z][A-Z0-9]{1,15}`, or `zone/ASSET` for another zone's voucher."""
Text = Annotated[str, "text"]
"""At most 256 characters that people read; no control characters. The log holds them as they are: labels, purposes
and references, by which people search, proofs of contributions, and the reasons that operators give for what they do
in public. None begins like a sealed text (`enc:v1:`), which a query would open."""
Personal = Annotated[str, "personal"]
"""A text like the others that may say who somebody is; the log holds it only sealed. Personal is what participants
write in words of their own: memos, comments, notes, grounds and reasons, and what they say of themselves. It is sealed
under the key that the principal whom the command acts for has in the zone, and unreadable for good once that key is
destroyed."""
Sealed = Annotated[str, "sealed"]
"""A personal text that was sealed before: a packet carries it from zone to zone."""

FOG = "FOG"
AMOUNT_LIMIT = 10**38
BASIS_POINTS = 10_000


def _no_signature(key: str, message: bytes, signature: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Issued:
    """Who asks, when, and under which name: all that a decision knows beside its command."""

    by: str
    """The principal the command acts for."""
    at: datetime
    """The time of the command, UTC; never earlier than that of any event before it in the zone."""
    role: str = "participant"
    """operator, participant, provider, auditor or worker."""
    command_id: str = "c0"
    """Unique in the zone; also the id of the ledger transaction that the command makes."""
    verify: Callable[[str, bytes, str], bool] = _no_signature
    """Whether this is the signature (hex) of the message under an Ed25519 public key (hex). A pure function that
    comes from outside, because the standard library has none."""
    signed: bool = False
    """Whether the principal signed the command himself (domain/principals.py)."""

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"

    @property
    def is_service(self) -> bool:
        """An operator, or a worker that acts by the system's own clock."""
        return self.role in ("operator", "worker")


class Ref(NamedTuple):
    """Where an event goes: a stream and the name of one of its histories."""

    stream: Stream[Any]
    name: str


class Stream(Generic[S]):
    """A kind of history: its first state, its fold and the events that it may hold.

    `category` is the first part of the names (`validator` of `validator:v1`). With several categories the
    id is the whole name (`wallet:ana`, `treasury`): that is how accounts keep the names that people use.
    `of_command` marks a stream whose history begins with the events of the command it is named after.
    """

    def __init__(
        self,
        category: str,
        initial: S,
        evolve: Callable[[S, Any], S],
        events: Any,
        *,
        categories: tuple[str, ...] = (),
        of_command: bool = False,
    ) -> None:
        self.category = category
        self.categories = categories or (category,)
        self.whole_names = bool(categories)
        self.initial = initial
        self.evolve = evolve
        self.events: tuple[type, ...] = get_args(events) or (events,)
        self.of_command = of_command

    def name(self, id: str) -> str:
        return id if self.whole_names else f"{self.category}:{id}"

    def __call__(self, *ids: str) -> Ref:
        return Ref(self, self.name(":".join(ids)))

    def __repr__(self) -> str:
        return f"Stream({self.category!r})"


class Read(Protocol):
    """The exact state of a history, as of the decision."""

    def __call__(self, stream: Stream[S], id: str, /) -> S: ...


Decision = Iterator[tuple[Ref, Any]]


def foresee(decide: Callable[[Read], Decision], read: Read) -> list[tuple[Ref, Any]]:
    """All that a decision comes to: applied to what it reads itself, and to nothing else."""
    states: dict[str, Any] = {}

    def ahead(stream: Stream[S], id: str, /) -> S:
        name = stream.name(id)
        state: S = states[name] if name in states else read(stream, id)
        return state

    decided = []
    for (stream, name), event in decide(ahead):
        id = name if stream.whole_names else name.partition(":")[2]
        states[name] = stream.evolve(ahead(stream, id), event)
        decided.append((Ref(stream, name), event))
    return decided


class Rejected(Exception):
    """The command broke a rule; nothing changed.

    Each rule is a subclass named as a sentence; its docstring is the message that people read, and the
    keyword arguments are the facts they need to act (a limit, the value, an id).
    """

    status = 409

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(self.sentence())

    @classmethod
    def rule(cls) -> str:
        """The rule's name in URLs and logs: `ValidatorIsJailed` -> `validator-is-jailed`."""
        return kebab(cls.__name__)

    @classmethod
    def sentence(cls) -> str:
        return " ".join((inspect.getdoc(cls) or cls.__name__).split())


class NotFound(Rejected):
    """There is no such thing, or it is not yours to see."""

    status = 404


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def snake(name: str) -> str:
    return kebab(name).replace("-", "_")


class Unbalanced(AssertionError):
    """A command's postings do not add up to zero: a defect in a decision, never the caller's fault."""


def balance(events: list[tuple[Ref, Any]]) -> dict[str, int]:
    """The sum of all postings per asset, zero sums left out. Conservation: it must be empty."""
    sums: dict[str, int] = {}
    for _, event in events:
        posting = getattr(event, "posting", None)
        if posting is not None:
            asset, amount = posting
            sums[asset] = sums.get(asset, 0) + amount
    return {asset: total for asset, total in sums.items() if total}


def floor_div(a: int, b: int) -> int:
    """a / b rounded down; b > 0."""
    return a // b


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up; b > 0."""
    return -(-a // b)
