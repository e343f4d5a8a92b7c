"""What the command line does to signing keys, witnesses and checkpoints.

Keys are retired, and witnesses chosen, as the database's owner: the role that Fogbook works in may add keys only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from commands._signatures import installation, log_key
from ops.home import Refused
from ops.settings import Settings, SettingsIncomplete
from projections._attestations import FORK, KEY, add, fork_body, key_body
from projections._kept import Keeper, Kept
from projections._notes import COSIGNATURE, ED25519, NoteError, parse_key, verifier_key
from projections._transparency import (
    FATES,
    LOGS,
    Forked,
    Signed,
    Unsignable,
    begin,
    check_kept,
    extend_and_sign,
    lock,
    origin_of,
)
from projections._tree import EMPTY_ROOT

MOST_LIVE_KEYS = 8
"""Each of them signs every checkpoint."""
MOST_WITNESSES = 64
MOST_ORIGIN = 128

KEYS = """
SELECT serial, public_key, created_at, retired_at FROM signing_keys WHERE zone = %s ORDER BY serial
"""

ADD_KEY = "INSERT INTO signing_keys (zone, serial, public_key) VALUES (%s, %s, %s)"

RETIRE = """
UPDATE signing_keys SET retired_at = clock_timestamp()
WHERE zone = %s AND serial = %s AND retired_at IS NULL RETURNING public_key
"""

RETIRE_ALL = """
UPDATE signing_keys SET retired_at = clock_timestamp()
WHERE zone = %s AND retired_at IS NULL RETURNING serial, public_key
"""

ORIGINS = "SELECT log, origin FROM trees WHERE zone = %s"

WITNESSES = "SELECT name, verifier_key, added_at FROM witnesses ORDER BY name"

ADD_WITNESS = "INSERT INTO witnesses (name, verifier_key) VALUES (%s, %s) ON CONFLICT (name) DO NOTHING"

REMOVE_WITNESS = "DELETE FROM witnesses WHERE name = %s"


class SigningRefused(Refused):
    """Keys, witnesses or checkpoints cannot be as asked."""


class Key(NamedTuple):
    serial: int
    public_key: bytes
    created_at: Any
    retired_at: Any


def log_origin(settings: Settings) -> str:
    """What the origins of this installation's logs begin with. Raises SettingsIncomplete."""
    origin = settings.log_origin or installation(settings.pepper_bytes)
    # What signed-note allows in the name of a key, which an origin is.
    if "+" in origin or len(origin) > MOST_ORIGIN or not origin.isprintable() or len(origin.split()) != 1:
        raise SettingsIncomplete(
            f"FOGBOOK_LOG_ORIGIN must be at most {MOST_ORIGIN} characters, without spaces and plus signs."
        )
    return origin


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Unsignable as error:
        raise SigningRefused(str(error)) from error


# Keys


def list_keys(connection: psycopg.Connection[Any], zone: str) -> list[dict[str, Any]]:
    """The zone's signing keys, and by which verifier keys (vkeys of signed-note) others check each log."""
    origins = dict(connection.execute(ORIGINS, (zone,)).fetchall())
    return [
        {
            "serial": key.serial,
            "public_key": key.public_key.hex(),
            "created_at": key.created_at,
            "retired_at": key.retired_at,
            **{f"{log}_vkey": str(verifier_key(origins[log], key.public_key, ED25519)) for log in LOGS},
        }
        for key in _keys(connection, zone)
    ]


def _keys(connection: psycopg.Connection[Any], zone: str) -> list[Key]:
    return [Key(*row) for row in connection.execute(KEYS, (zone,))]


def rotate(
    connection: psycopg.Connection[Any],
    pepper: bytes,
    origin: str,
    zone: str,
    keeper: Keeper | None = None,
) -> int:
    """Add a key, which signs beside the others from now on; returns its serial number."""
    with _refusing(), connection.transaction():
        begin(connection, pepper, origin, zone)
        for log in LOGS:
            check_kept(connection, origin, lock(connection, zone, log), keeper)
        keys = _keys(connection, zone)
        if sum(key.retired_at is None for key in keys) >= MOST_LIVE_KEYS:
            raise SigningRefused(f"Zone {zone} has {MOST_LIVE_KEYS} signing keys: retire one first.")
        serial = 1 + max(key.serial for key in keys)
        public_key = log_key(pepper, zone, serial).public_key().public_bytes_raw()
        connection.execute(ADD_KEY, (zone, serial, public_key))
        add(connection, zone, KEY, [key_body("added", serial, public_key)])
    return serial


def retire(owner: psycopg.Connection[Any], zone: str, serial: int) -> None:
    """Let a key sign no further checkpoint; those that it has signed stay valid."""
    with _refusing(), owner.transaction():
        if owner.execute("SELECT 1 FROM trees WHERE zone = %s", (zone,)).fetchone() is None:
            raise SigningRefused(f"Zone {zone} has no signing key {serial}.")
        lock(owner, zone, FATES)
        live = [key.serial for key in _keys(owner, zone) if key.retired_at is None]
        if live == [serial]:
            raise SigningRefused(f"Key {serial} is the only one of zone {zone}: add another one first.")
        row = owner.execute(RETIRE, (zone, serial)).fetchone()
        if row is None:
            raise SigningRefused(f"Zone {zone} has no signing key {serial} that is not retired.")
        add(owner, zone, KEY, [key_body("retired", serial, row[0])])


# Checkpoints


def checkpoint_now(
    connection: psycopg.Connection[Any],
    pepper: bytes,
    origin: str,
    zone: str,
    keeper: Keeper | None = None,
) -> dict[str, Signed]:
    """Extend and sign both logs of a zone. Raises SigningRefused."""
    with _refusing():
        return extend_and_sign(connection, pepper, origin, zone, keeper=keeper)


def begin_anew(
    owner: psycopg.Connection[Any], pepper: bytes, origin: str, zone: str, keeper: Keeper | None
) -> int:
    """Let a log that does not continue what was signed be signed all the same, by a key that signed nothing yet;
    returns its serial number.

    The log attests what was signed last of the one that is gone. All older keys are retired, and never sign again.
    """
    if keeper is None:
        raise SigningRefused("Nothing says what was signed before: set FOGBOOK_SIGNED.")
    with _refusing(), keeper.alone():
        with owner.transaction():
            begin(owner, pepper, origin, zone)
            gone = _forked(owner, origin, zone, keeper)
            serial = 1 + max([k.serial for k in _keys(owner, zone)] + [k.serial for k in gone.values()])
            retired = owner.execute(RETIRE_ALL, (zone,)).fetchall()
            public_key = log_key(pepper, zone, serial).public_key().public_bytes_raw()
            owner.execute(ADD_KEY, (zone, serial, public_key))
            add(owner, zone, FORK, [fork_body({log: (k.size, k.root) for log, k in gone.items()})])
            said = [key_body("retired", *key) for key in retired] + [key_body("added", serial, public_key)]
            add(owner, zone, KEY, said)
        # Only now: until all of this is stored, it is for the operator to begin anew once more.
        for log in LOGS:
            keeper.keep(Kept(origin_of(origin, zone, log), 0, EMPTY_ROOT, serial, serial))
    return serial


def _forked(owner: psycopg.Connection[Any], origin: str, zone: str, keeper: Keeper) -> dict[str, Kept]:
    """What was signed last of each log; both trees are locked. Raises SigningRefused where they continue it."""
    found, forked = {}, False
    for log in LOGS:
        try:
            kept = check_kept(owner, origin, lock(owner, zone, log), keeper)
        except Forked:
            kept, forked = keeper.last(origin_of(origin, zone, log)), True
        if kept is not None:
            found[log] = kept
    if not forked:
        raise SigningRefused(f"The logs of zone {zone} continue what was signed: nothing is to begin anew.")
    return found


def write_note(path: Path, note: str) -> None:
    try:
        path.write_text(note, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SigningRefused(f"{path} cannot be written: {error.strerror}.") from error


# Witnesses


def list_witnesses(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    names = ("name", "verifier_key", "added_at")
    return [dict(zip(names, row, strict=True)) for row in connection.execute(WITNESSES)]


def add_witness(owner: psycopg.Connection[Any], name: str, vkey: str) -> None:
    """Accept cosignatures by this key from now on. Raises SigningRefused."""
    try:
        key = parse_key(vkey)
    except NoteError as error:
        raise SigningRefused(str(error)) from error
    if key.type != COSIGNATURE:
        raise SigningRefused("A witness's key is of type 4 (cosignature v1).")
    if key.name != name:
        raise SigningRefused(f"The verifier key is that of {key.name}, not of {name}.")
    known = list_witnesses(owner)
    if len(known) >= MOST_WITNESSES:
        raise SigningRefused(f"There are {MOST_WITNESSES} witnesses already: remove one first.")
    if any(each["name"] == name and each["verifier_key"] != vkey for each in known):
        raise SigningRefused(f"There is a witness {name} with another key: remove it first.")
    owner.execute(ADD_WITNESS, (name, vkey))


def remove_witness(owner: psycopg.Connection[Any], name: str) -> None:
    if owner.execute(REMOVE_WITNESS, (name,)).rowcount == 0:
        raise SigningRefused(f"There is no witness {name}.")
