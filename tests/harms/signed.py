"""Harm to commands that people signed: the log is written anew by one who has all secrets of the installation, and
nothing was kept elsewhere; what he does not have are the principals' keys."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from commands._codec import decode_json, encode_json
from tests.chronicles import SECRET
from tests.harms.rewrites import Event, Told, rewrite
from tests.tampering import Expected, Harm, Kind, cases

Forge = Callable[[Told, Random], None]
REQUIRED = "SignaturesRequired"


def _type(event: Event) -> str:
    return event.type


def _signed(told: list[Told]) -> list[int]:
    """Which commands somebody signed that moved value."""
    return [
        i for i, each in enumerate(told) if [*map(_type, each.events)][:2] == ["CommandSigned", "Debited"]
    ]


def _edit(told: Told, name: str, change: Callable[[Any], Any]) -> None:
    """A field of the signature, as the event and the request tell it."""
    event = told.events[0]
    said = decode_json(event.data)
    said[name] = change(said[name])
    event.data = encode_json(said)
    request = decode_json(told.fate[4])
    told.fate[4] = encode_json(request | {"signed": said})


def _nonce(told: Told, rng: Random) -> None:
    _edit(told, "nonce", lambda old: old + rng.randint(1, 3))


def _signature(told: Told, rng: Random) -> None:
    at = rng.randrange(128)
    _edit(told, "signature", lambda old: f"{old[:at]}{(int(old[at], 16) + 1) % 16:x}{old[at + 1 :]}")


def _expiry(told: Told, rng: Random) -> None:
    _edit(told, "expires", lambda old: old + rng.randint(1, 10**5))


def _principal(told: Told, rng: Random) -> None:
    """What Zoe signed is told as Ben's; the signature stays where it was."""
    request = decode_json(told.fate[4])
    told.fate[2], told.fate[4] = "ben", encode_json(request | {"act_as": "ben"})
    for event in told.events:
        event.meta["by"] = "ben"


def _name(told: Told, rng: Random) -> None:
    request = decode_json(told.fate[4])
    told.fate[4] = encode_json(request | {"command": "ledger/burn-tokens"})
    for event in told.events:
        event.meta["name"] = "ledger/burn-tokens"


def _move_more(told: Told) -> None:
    for event in told.events[1:]:
        value = decode_json(event.data)
        event.data = encode_json(value | {"amount": f"{value['amount']}0"})
    request = decode_json(told.fate[4])
    request["body"]["amount"] += "0"
    told.fate[4] = encode_json(request)


def _amount(told: Told, rng: Random) -> None:
    """Ten times as much moves than what is said to be signed."""
    _move_more(told)


def _amount_and_body(told: Told, rng: Random) -> None:
    _move_more(told)

    def tenfold(body: str) -> str:
        value = decode_json(body.encode())
        return body.replace(f'"amount":"{value["amount"]}"', f'"amount":"{value["amount"]}0"')

    _edit(told, "body", tenfold)


FORGED: dict[str, tuple[Forge, str]] = {
    "another nonce": (_nonce, "did not sign the command"),
    "another signature": (_signature, "did not sign the command"),
    "a later expiry": (_expiry, "did not sign the command"),
    "another principal": (_principal, "does not begin a command of ben"),
    "another command": (_name, "did not sign the command"),
    "another amount": (_amount, "request is not what was signed"),
    "another amount and body": (_amount_and_body, "did not sign the command"),
}


def _forged(case: tuple[Forge, str]) -> Kind:
    forge, says = case

    def run(harm: Harm, rng: Random) -> Expected:
        def alter(told: list[Told], rng: Random) -> int:
            index = rng.choice(_signed(told))
            forge(told[index], rng)
            return _first(told, index)

        first, _ = rewrite(harm, rng, alter, SECRET, models=False)
        return [{"position": first, "says": says}]

    return run


def _first(told: list[Told], index: int) -> int:
    return 1 + sum(len(each.events) for each in told[:index])


cases(_forged, {f"a signed command forged: {name}": case for name, case in FORGED.items()})


def _replayed(told: list[Told], rng: Random) -> tuple[int, str]:
    """What somebody signed is done once more, under another idempotency key."""
    index = rng.choice(_signed(told))
    once = told[index]
    fate = [*once.fate]
    fate[3] = f"{fate[3]}.again"
    told.insert(index + 1, Told(fate, [Event(e.stream, e.type, e.data, e.meta, e.at) for e in once.events]))
    return _first(told, index + 1), "Each signed command of a principal has a higher nonce"


def _unsigned(told: list[Told], rng: Random) -> tuple[int, str]:
    """The signature is taken away from a command of one who signs everything."""
    index = rng.choice([i for i in _signed(told) if i > _demanded(told)])
    each = told[index]
    del each.events[0]
    request = decode_json(each.fate[4])
    del request["signed"]
    each.fate[4] = encode_json(request)
    return _first(told, index), "zoe did not sign its command"


def _revoked(told: list[Told], rng: Random) -> tuple[int, str]:
    """The key was registered only behind what it signed."""
    registered = next(
        i for i, each in enumerate(told) if [*map(_type, each.events)] == ["SigningKeyRegistered"]
    )
    index = next(i for i in _signed(told))
    each = told.pop(registered)
    told.insert(index - 1, each)
    told[index - 1], told[index] = told[index], told[index - 1]
    each.fate[10] = told[index - 1].fate[10]
    each.events[0].at = each.fate[10]
    opened = next(i for i, one in enumerate(told) if "CommandSigned" in map(_type, one.events))
    return _first(told, opened), "signed by a key that is none of the principal's"


def _demanded(told: list[Told]) -> int:
    return next(i for i, each in enumerate(told) if REQUIRED in map(_type, each.events))


REWRITTEN: dict[str, Callable[[list[Told], Random], tuple[int, str]]] = {
    "done once more": _replayed,
    "no signature any more": _unsigned,
    "before its key": _revoked,
}


def _rewritten(alter: Callable[[list[Told], Random], tuple[int, str]]) -> Kind:
    def run(harm: Harm, rng: Random) -> Expected:
        said = []

        def altered(told: list[Told], rng: Random) -> int:
            first, says = alter(told, rng)
            said.append({"position": first, "says": says})
            return first

        rewrite(harm, rng, altered, SECRET, models=False)
        return said

    return run


cases(_rewritten, {f"a signed command forged: {name}": alter for name, alter in REWRITTEN.items()})
