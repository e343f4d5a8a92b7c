"""The keyring: personal texts are sealed under a key per zone and principal, and unreadable once it is destroyed."""

from __future__ import annotations

import asyncio
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import commands._subjects as subjects
from commands._models import MOST_SEALED, command_from, model_of
from commands._routes import ROUTES
from commands._subjects import ERASED, KeyDestroyed, Keyring, KeyringUnavailable, personal_fields
from commands.api import load_routes
from domain._kernel import Amount, Personal, Text
from domain.ledger import MintTokens, Transfer
from domain.principals import SetProfile
from domain.settlement.transfers import InitiateTransfer, ReceiveTransfer
from ops.problems import Problem

PEPPER = b"a pepper for tests only"
FORM = re.compile(r"enc:v1:([0-9a-f]{32}):[A-Za-z0-9_-]+\Z")
texts = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=256)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    folder = tmp_path / "sub jects"
    folder.mkdir()
    return Keyring(folder, PEPPER)


def seal(keyring: Keyring, text: str, principal: str = "ana", field: str = "memo", zone: str = "main") -> str:
    return asyncio.run(keyring.sealed(zone, principal, {field: text}))[field]


def shown(keyring: Keyring, **items: Any) -> Any:
    return json.loads(keyring.reveal(json.dumps(items)))


def files(keyring: Keyring) -> list[str]:
    return sorted(path.name for path in keyring.folder.iterdir())


# Sealing and opening


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
def test_what_is_sealed_is_opened_as_it_was_written(keyring: Keyring, text: str) -> None:
    sealed = seal(keyring, text)
    assert FORM.match(sealed) and len(sealed) <= MOST_SEALED
    assert sealed == seal(keyring, text)
    for encoded in (
        json.dumps([{"memo": sealed, "a": 1}]),
        json.dumps({"memo": sealed}, separators=(",", ":")),
    ):
        opened = keyring.reveal(encoded)
        assert json.loads(opened) == json.loads(encoded.replace(json.dumps(sealed), json.dumps(text)))


def test_the_longest_text_fits_the_log() -> None:
    assert command_from(SetProfile, {"display_name": "\U0001f600" * 256})
    assert len("enc:v1:") + 32 + 1 + -(-(256 * 4 + 16) * 4 // 3) <= MOST_SEALED


def test_the_same_words_are_the_same_bytes_for_one_person_in_one_field_only(keyring: Keyring) -> None:
    one = seal(keyring, "lunch")
    assert one == seal(keyring, "lunch")
    others = {
        seal(keyring, "lunch", "ben"),
        seal(keyring, "lunch", field="note"),
        seal(keyring, "lunch", zone="far"),
        seal(keyring, "Lunch"),
    }
    assert one not in others and len(others) == 4


def test_a_keyring_that_begins_anew_opens_what_was_sealed_before(keyring: Keyring) -> None:
    sealed = seal(keyring, "lunch")
    assert shown(Keyring(keyring.folder, PEPPER), memo=sealed) == {"memo": "lunch"}
    assert seal(Keyring(keyring.folder, PEPPER), "lunch") == sealed


def test_other_installations_give_other_bytes(keyring: Keyring, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Keyring(tmp_path / "other", PEPPER)
    sealed = seal(other, "lunch")
    assert sealed != seal(keyring, "lunch")
    assert shown(keyring, memo=sealed) == {"memo": sealed}


def test_what_is_not_sealed_here_stays_as_it_is(keyring: Keyring) -> None:
    sealed = seal(keyring, "lunch")
    id = keyring.id_of("main", "ana")
    for text in (
        "enc:v1:",
        "enc:v1:" + "0" * 32 + ":" + "A" * 40,
        f"enc:v1:{id}:" + "A" * 40,
        f"enc:v1:{id}:" + "A" * 41,
        sealed[:-1] + ("A" if sealed[-1] != "A" else "B"),
        sealed[:-4],
        sealed + "AAAA",
        f" {sealed}",
        f'"memo":"{sealed}"',
        f'\\"memo":"{sealed}"',
        "[erased]",
    ):
        assert shown(keyring, memo=text, other=1) == {"memo": text, "other": 1}


def test_a_sealed_text_is_opened_under_the_name_of_its_field_only(keyring: Keyring) -> None:
    memo, reason = seal(keyring, "lunch"), seal(keyring, "late", field="reason")
    assert shown(keyring, reference=memo, memo=memo) == {"reference": memo, "memo": "lunch"}
    assert shown(keyring, dispute=reason, reason=reason) == {"dispute": "late", "reason": "late"}
    assert shown(keyring, display_name=[memo]) == {"display_name": [memo]}


def test_somebody_who_writes_the_form_himself_gets_his_own_words_back(keyring: Keyring) -> None:
    copied = seal(keyring, "a secret of Ana's")
    sealed = seal(keyring, copied, "ben")
    assert sealed != copied
    assert shown(keyring, memo=sealed) == {"memo": copied}


# Files


def test_the_folder_tells_nobodys_name_and_holds_a_key_a_person_and_zone(keyring: Keyring) -> None:
    for zone, principal in (("main", "ana"), ("main", "ben"), ("far", "ana"), ("main", "ana")):
        seal(keyring, "lunch", principal, zone=zone)
    names = files(keyring)
    ids = {keyring.id_of("main", "ana"), keyring.id_of("main", "ben"), keyring.id_of("far", "ana")}
    assert names == sorted(ids) and len(ids) == 3
    assert not any("ana" in name or "ben" in name for name in names)
    for name in names:
        path = keyring.folder / name
        assert (path.stat().st_size, path.stat().st_mode & 0o777) == (64, 0o600)
    assert Keyring(keyring.folder, b"another pepper of theirs").id_of("main", "ana") not in names


def test_of_many_that_make_a_key_at_once_one_wins(keyring: Keyring) -> None:
    def one(number: int) -> str:
        return seal(Keyring(keyring.folder, PEPPER), "lunch")

    with ThreadPoolExecutor(16) as pool:
        sealed = set(pool.map(one, range(64)))
    assert len(sealed) == 1
    assert files(keyring) == [keyring.id_of("main", "ana")]
    assert shown(keyring, memo=sealed.pop()) == {"memo": "lunch"}


def test_of_many_processes_that_make_a_key_at_once_one_wins(keyring: Keyring) -> None:
    pids = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sealed = seal(Keyring(keyring.folder, PEPPER), "lunch")
                (keyring.folder.parent / f"sealed-{number}").write_text(sealed)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 6
    assert len({(keyring.folder.parent / f"sealed-{n}").read_text() for n in range(6)}) == 1


@pytest.mark.parametrize("broken", ["missing", "a file", "damaged", "lost"])
def test_a_broken_folder_seals_nothing(keyring: Keyring, broken: str) -> None:
    before = seal(keyring, "lunch")
    path = keyring.folder / keyring.id_of("main", "ana")
    if broken == "damaged":
        path.write_bytes(path.read_bytes()[:63])
    else:
        path.unlink()
    if broken in ("missing", "a file"):
        keyring.folder.rmdir()
    if broken == "a file":
        keyring.folder.write_bytes(b"")
    with pytest.raises(KeyringUnavailable):
        seal(keyring, "lunch")
    if broken != "lost":
        with pytest.raises(KeyringUnavailable):
            seal(Keyring(keyring.folder, PEPPER), "lunch")
    assert shown(keyring, memo=before) == {"memo": before}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_seals_nothing_new_and_destroys_nothing(keyring: Keyring) -> None:
    sealed = seal(keyring, "lunch")
    keyring.folder.chmod(0o500)
    try:
        assert seal(keyring, "lunch") == sealed
        with pytest.raises(KeyringUnavailable):
            seal(keyring, "lunch", "ben")
        with pytest.raises(KeyringUnavailable):
            keyring.destroy("main", "ana")
    finally:
        keyring.folder.chmod(0o700)


def test_a_folder_that_is_missing_is_never_made(keyring: Keyring) -> None:
    keyring.folder.rmdir()
    for attempt in (lambda: seal(keyring, "lunch"), lambda: keyring.destroy("main", "ana")):
        with pytest.raises(KeyringUnavailable):
            attempt()
    assert not keyring.folder.exists()


# Destroying


def test_once_destroyed_nothing_is_opened_or_sealed_any_more(keyring: Keyring) -> None:
    hers, his = seal(keyring, "lunch"), seal(keyring, "dinner", "ben")
    other = Keyring(keyring.folder, PEPPER)
    assert shown(other, memo=hers) == {"memo": "lunch"}
    keyring.destroy("main", "ana")
    for each in (keyring, other, Keyring(keyring.folder, PEPPER)):
        assert shown(each, memo=hers, note=his) == {"memo": ERASED, "note": his}
        assert json.loads(each.reveal(json.dumps([{"memo": hers}, {"memo": his}]))) == [
            {"memo": ERASED},
            {"memo": "dinner"},
        ]
        with pytest.raises(KeyDestroyed):
            seal(each, "lunch")
        with pytest.raises(KeyDestroyed):
            each.make("main", "ana")
    assert files(keyring) == sorted((keyring.id_of("main", "ben"), f"{keyring.id_of('main', 'ana')}.erased"))
    keyring.destroy("main", "ana")


def test_what_somebody_wrote_in_another_zone_is_not_erased_with_it(keyring: Keyring) -> None:
    here, there = seal(keyring, "lunch"), seal(keyring, "dinner", zone="far")
    keyring.destroy("main", "ana")
    assert shown(keyring, memo=here) == {"memo": ERASED}
    assert shown(keyring, memo=there) == {"memo": "dinner"}
    assert seal(keyring, "dinner", zone="far") == there
    with pytest.raises(KeyDestroyed):
        seal(keyring, "lunch")


def test_no_zone_and_principal_share_a_key_with_another_two(keyring: Keyring) -> None:
    assert keyring.id_of("a", "bc") != keyring.id_of("ab", "c")
    assert keyring.id_of("ana", "main") != keyring.id_of("main", "ana")


def test_the_bytes_of_a_destroyed_key_are_overwritten(keyring: Keyring) -> None:
    seal(keyring, "lunch")
    path = keyring.folder / keyring.id_of("main", "ana")
    held = os.open(path, os.O_RDONLY)
    try:
        before = os.read(held, 100)
        keyring.destroy("main", "ana")
        after = os.pread(held, 100, 0)
    finally:
        os.close(held)
    assert len(before) == len(after) == 64
    assert before != after and any(after)


def test_one_who_never_wrote_anything_is_erased_too(keyring: Keyring) -> None:
    keyring.destroy("main", "ana")
    with pytest.raises(KeyDestroyed):
        seal(keyring, "lunch")
    assert files(keyring) == [f"{keyring.id_of('main', 'ana')}.erased"]


@pytest.mark.parametrize("step", ["pwrite", "unlink"])
def test_a_destruction_that_was_interrupted_is_finished(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    sealed = seal(keyring, "lunch")

    def killed(*arguments: Any) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, killed)
        with pytest.raises(KeyringUnavailable):
            keyring.destroy("main", "ana")
    assert keyring.id_of("main", "ana") in files(keyring)
    # The tombstone alone is enough.
    assert shown(keyring, memo=sealed) == {"memo": ERASED}
    with pytest.raises(KeyDestroyed):
        seal(keyring, "lunch")
    keyring.destroy("main", "ana")
    assert files(keyring) == [f"{keyring.id_of('main', 'ana')}.erased"]


def test_a_key_that_comes_back_from_a_copy_is_destroyed_again(keyring: Keyring) -> None:
    sealed = seal(keyring, "lunch")
    path = keyring.folder / keyring.id_of("main", "ana")
    copy = path.read_bytes()
    keyring.destroy("main", "ana")
    (keyring.folder / f"{path.name}.erased").unlink()
    path.write_bytes(copy)
    assert shown(keyring, memo=sealed) == {"memo": "lunch"}
    keyring.destroy("main", "ana")
    assert shown(keyring, memo=sealed) == {"memo": ERASED}
    assert not path.exists()


def test_a_key_that_is_made_while_its_owner_is_erased_does_not_survive(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who makes it saw no tombstone; the one who destroys saw no key."""
    write = Keyring._write

    def late(self: Keyring, id: str) -> None:
        Keyring(self.folder, PEPPER).destroy("main", "ana")
        write(self, id)

    monkeypatch.setattr(Keyring, "_write", late)
    with pytest.raises(KeyDestroyed):
        keyring.make("main", "ana")
    assert files(keyring) == [f"{keyring.id_of('main', 'ana')}.erased"]


def test_whoever_seals_while_a_key_is_destroyed_seals_under_the_whole_key_or_not_at_all(
    keyring: Keyring,
) -> None:
    for number in range(20):
        name = f"p{number}"
        sealed = seal(keyring, "lunch", name)

        def hammer(_: int, name: str = name) -> set[str]:
            found = set()
            mine = Keyring(keyring.folder, PEPPER)
            for _ in range(30):
                try:
                    found.add(seal(mine, "lunch", name))
                except KeyDestroyed:
                    break
            return found

        with ThreadPoolExecutor(3) as pool:
            sealing = [pool.submit(hammer, i) for i in range(2)]
            pool.submit(keyring.destroy, "main", name).result()
            assert set().union(*(each.result() for each in sealing)) <= {sealed}


# What is personal


def test_the_personal_fields_of_all_commands_are_known() -> None:
    load_routes()
    found = {name: route.personal for name, route in ROUTES.items() if route.personal}
    assert found == {
        "devices/retire-device": ("reason",),
        "devices/suspend-device": ("reason",),
        "harvest/dispute-contribution": ("reason",),
        "ledger/burn-tokens": ("reason",),
        "ledger/transfer": ("memo",),
        "marketplace/review-provider": ("comment",),
        "marketplace/terminate-contract": ("reason",),
        "principals/set-profile": ("display_name", "contact"),
        "settlement/initiate-transfer": ("memo",),
        "settlement/open-dispute": ("reason",),
        "settlement/record-obligation": ("memo",),
        "settlement/submit-evidence": ("note",),
        "staking/appeal-slash": ("grounds",),
        "staking/edit-validator": ("description",),
        "staking/register-validator": ("description",),
    }
    assert personal_fields(ReceiveTransfer) == ()
    assert personal_fields(InitiateTransfer) == ("memo",)


def test_the_documentation_says_what_is_personal() -> None:
    properties = model_of(Transfer).model_json_schema()["properties"]
    assert properties["memo"] == {"default": "", "maxLength": 256, "title": "Memo", "type": "string"} | {
        "x-personal": True
    }
    assert "x-personal" not in properties["purpose"]
    packet = model_of(ReceiveTransfer).model_json_schema()["$defs"]["Packet"]["properties"]
    assert packet["memo"]["maxLength"] == MOST_SEALED


@pytest.mark.parametrize("name", ["x" * 257, "two\nlines", "nul\0", 5, None])
def test_a_personal_text_is_checked_like_any_other(name: Any) -> None:
    with pytest.raises(Problem):
        command_from(SetProfile, {"display_name": name})


def test_what_looks_sealed_is_no_text_that_is_stored_as_it_is(keyring: Keyring) -> None:
    """A query would open it for whoever wrote it there."""
    stolen = seal(keyring, "a secret of Ana's", field="reason")
    for text in (stolen, "enc:v1:"):
        with pytest.raises(Problem) as refused:
            command_from(MintTokens, {"to": "fees", "amount": "5", "reason": text, "reference": "r"})
        assert refused.value.status == 422
        (error,) = refused.value.body["facts"]["errors"]
        assert error == {"field": "reason", "message": "a text does not begin with enc:v1:"}
    for text in ("see enc:v1:", "ENC:V1:", "enc:v2:"):
        body = {"to": "fees", "amount": "5", "reason": text, "reference": "r"}
        assert command_from(MintTokens, body).reason == text
    # In a personal text they are words like others, and sealed like others.
    assert command_from(SetProfile, {"display_name": stolen}).display_name == stolen


@pytest.mark.parametrize("memo", ["x" * (MOST_SEALED + 1), "two\nlines", 5])
def test_a_packet_carries_a_sealed_text_of_some_size(memo: Any) -> None:
    packet = {
        **{"source": "main", "target": "village", "sequence": 1, "asset": "FOG", "scale": 6, "amount": "5"},
        **{"sender": "ana", "recipient": "vic", "timeout": "2026-01-31T12:00:00Z"},
    }
    assert command_from(ReceiveTransfer, {"packet": packet | {"memo": "x" * MOST_SEALED}, "proof": ""})
    with pytest.raises(Problem):
        command_from(ReceiveTransfer, {"packet": packet | {"memo": memo}, "proof": ""})


def test_a_personal_text_inside_of_something_else_is_no_command() -> None:
    @dataclass(frozen=True)
    class Part:
        name: Personal

    @dataclass(frozen=True)
    class Inside:
        part: Annotated[str, "id"]
        names: tuple[Personal, ...] = ()

    @dataclass(frozen=True)
    class Fine:
        name: Personal
        label: Text = ""
        amount: Amount | None = None

    for wrong in (tuple[Personal, ...], Personal | None, Part, tuple[Part, ...]):
        with pytest.raises(TypeError):
            subjects._is_personal(wrong)
    assert personal_fields(Fine) == ("name",)
    with pytest.raises(TypeError):
        personal_fields(Inside)
