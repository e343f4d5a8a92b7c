"""Signing keys of principals, and commands that they signed: each counts once, in its zone, until it expires."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
import rfc8785
from hypothesis import given as hypothesis_given

from commands._codec import decode_event, event_encoder
from commands._signatures import verify
from commands._signed import canonical
from domain._ed25519 import PRIME, SMALL_ORDER, D, is_sound_key
from domain._kernel import Rejected
from domain.ledger import OpenWallet, WalletOpened
from domain.platform import CreateZone
from domain.principals import (
    EPOCH,
    CommandSigned,
    EraseSubject,
    ExpiryIsTooFarAhead,
    KeyIsNotProven,
    NonceIsUsed,
    P,
    ProfileSet,
    RegisterSigningKey,
    RequireSignatures,
    RevokeSigningKey,
    SetProfile,
    SignatureIsRequired,
    SignaturesRequired,
    SignedCommandHasExpired,
    SigningKeyIsMalformed,
    SigningKeyIsUnknown,
    SigningKeyNotFound,
    SigningKeyRegistered,
    SigningKeyRevoked,
    SubjectErased,
    TooManySigningKeys,
    signatures,
    signers,
)
from domain.principals import Signer as Keys
from tests.examples import DAY
from tests.scenario import START, Scenario, given
from tests.signers import Signer, signature

NOW = (START - EPOCH) // timedelta(seconds=1)
ana, phone, ben = Signer("ana"), Signer("ana", 2), Signer("ben", 3)
zone = (CreateZone("main"), "operator")
registered = (zone, (ana.registration(), "ana"))
ORDER = 2**252 + 27_742_317_777_372_353_535_851_937_790_883_648_493


def once(nonce: int = 1, expires: int = NOW + 60, signer: Signer = ana) -> CommandSigned:
    return signature(signer, nonce, expires)


def keys(scenario: Scenario, principal: str = "ana") -> tuple[str, ...]:
    found: Keys = scenario.book.read(signers, principal)
    return found.keys


# Keys


def test_a_principal_registers_a_key_that_he_holds() -> None:
    scenario = given(zone).when(ana.registration(), "ana").then(SigningKeyRegistered(ana.key, START))
    assert scenario.book.events[-1][0] == "signer:ana"
    scenario.when(ana.registration(), "ana", after=DAY).then()


@pytest.mark.parametrize(
    "other",
    [
        RegisterSigningKey(ana.key, "00" * 64),
        RegisterSigningKey(ana.key, ""),
        RegisterSigningKey(phone.key, ana.registration().proof),
        Signer("ben").registration(),
        Signer("ana", zone="village").registration(),
    ],
    ids=["zeros", "none", "another key's", "another principal's", "another zone's"],
)
def test_the_proof_is_this_keys_for_this_principal_and_zone(other: RegisterSigningKey) -> None:
    given(zone).when(other, "ana").then(KeyIsNotProven)


def test_once_there_is_a_key_others_follow_from_it() -> None:
    scenario = given(registered).when(phone.registration(), "ana").then(SignatureIsRequired)
    scenario.when(phone.registration(), "ana", signature=once()).then(CommandSigned, SigningKeyRegistered)
    scenario.when(RevokeSigningKey(ana.key), "ana").then(SignatureIsRequired)
    by_phone = once(2, signer=phone)
    scenario.when(RevokeSigningKey(ana.key), "ana", signature=by_phone).then(CommandSigned, SigningKeyRevoked)
    assert keys(scenario) == (phone.key,)


def test_a_bounded_number_of_keys_is_live() -> None:
    scenario = given(registered)
    for seed in range(2, P.most_keys + 1):
        scenario.when(Signer("ana", seed).registration(), "ana", signature=once(seed)).then(
            CommandSigned, SigningKeyRegistered
        )
    scenario.when(Signer("ana", 9).registration(), "ana", signature=once(9)).then(TooManySigningKeys)


def test_an_operator_revokes_a_key_that_was_lost_and_that_is_seen() -> None:
    scenario = given(registered).when(RevokeSigningKey(ana.key, "ana"))
    scenario.then(SigningKeyRevoked(ana.key, "operator", START))
    scenario.when(phone.registration(), "ana").then(SigningKeyRegistered)


@pytest.mark.parametrize("role", ["participant", "provider", "worker"])
def test_a_key_of_another_is_not_there(role: str) -> None:
    for signed_by in (None, once(signer=ben)):
        scenario = given(registered, (ben.registration(), "ben"))
        scenario.when(RevokeSigningKey(ana.key, "ana"), "ben", role, signature=signed_by)
        scenario.then(SigningKeyNotFound)


def test_an_operator_who_acts_for_another_has_that_ones_authority() -> None:
    given(registered).when(RevokeSigningKey(ana.key), "ana", "participant").then(SignatureIsRequired)


# Keys that are none


def _doubled(point: tuple[int, int]) -> tuple[int, int]:
    x, y = point
    product = D * x * x * y * y % PRIME
    return (
        2 * x * y * pow(1 + product, -1, PRIME) % PRIME,
        (y * y + x * x) * pow(1 - product, -1, PRIME) % PRIME,
    )


def _point(y: int) -> tuple[int, int]:
    squared = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(squared, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != squared:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert x * x % PRIME == squared
    return x, y


def _hex(y: int, sign: int = 0) -> str:
    return (y | sign << 255).to_bytes(32, "little").hex()


def test_the_points_of_small_order_are_those_that_doubling_three_times_makes_zero() -> None:
    for y in SMALL_ORDER:
        assert _doubled(_doubled(_doubled(_point(y)))) == (0, 1)
    assert len({(x, y) for y in SMALL_ORDER for x in (_point(y)[0], -_point(y)[0] % PRIME)}) == 8


UNSOUND = [
    *(_hex(y, sign) for y in sorted(SMALL_ORDER) for sign in (0, 1)),
    *(_hex(y + PRIME) for y in (0, 1, 3, 18)),  # The same points in another spelling.
    _hex(2),  # On no point of the curve.
    "",
    "00",
    "g" * 64,
    ana.key + "00",
]


@pytest.mark.parametrize("key", UNSOUND)
def test_a_key_that_others_could_sign_for_or_spell_otherwise_is_refused(key: str) -> None:
    given(zone).when(RegisterSigningKey(key, "00" * 64), "ana").then(SigningKeyIsMalformed)


def test_what_is_refused_would_let_anybody_sign() -> None:
    """The neutral element is a key under which one signature fits every message."""
    neutral, fits_all = _hex(1), _hex(1) + "00" * 32
    assert verify(neutral, b"any message", fits_all)
    assert verify(neutral, b"another one", fits_all)
    assert not is_sound_key(neutral)


def test_honest_keys_are_sound() -> None:
    assert all(is_sound_key(Signer(seed=seed).key) for seed in range(100))


def test_a_signature_is_not_changed_into_another_one() -> None:
    made = bytes.fromhex(ana.sign({"n": 1}))
    message = rfc8785.dumps({"n": 1})
    assert verify(ana.key, message, made.hex())
    larger = int.from_bytes(made[32:], "little") + ORDER
    assert not verify(ana.key, message, (made[:32] + larger.to_bytes(32, "little")).hex())


# Signed commands


def test_a_signed_command_begins_with_its_signature() -> None:
    scenario = given(registered).when(OpenWallet("wallet:ana"), "ana", signature=once())
    scenario.then(once(), WalletOpened)
    assert scenario.book.events[-2][0] == "signed:ana"


def test_a_nonce_is_used_once_and_never_again() -> None:
    scenario = given(registered).when(SetProfile("Ana"), "ana", signature=once(5))
    for used in (5, 4, 1):
        scenario.when(SetProfile("Anna"), "ana", signature=once(used)).then(NonceIsUsed)
        assert isinstance(scenario.outcome, Rejected)
        assert scenario.outcome.facts == {"nonce": used, "last": 5}
    scenario.when(SetProfile("Anna"), "ana", signature=once(6)).then(CommandSigned, ProfileSet)


def test_a_command_that_finds_nothing_to_do_uses_its_nonce_all_the_same() -> None:
    scenario = given(registered, (SetProfile("Ana"), "ana"))
    scenario.when(SetProfile("Ana"), "ana", signature=once(1)).then(CommandSigned)
    scenario.when(SetProfile("Ana"), "ana", signature=once(1)).then(NonceIsUsed)


def test_a_command_that_is_refused_does_not_use_its_nonce() -> None:
    scenario = given(registered, (OpenWallet("wallet:ana"), "ana"))
    scenario.when(OpenWallet("wallet:ben"), "ana", signature=once(1))
    assert isinstance(scenario.outcome, Rejected)
    assert scenario.book.read(signatures, "ana").nonce == 0


def test_it_counts_until_it_expires() -> None:
    given(registered).when(SetProfile("Ana"), "ana", signature=once(expires=NOW)).then(
        SignedCommandHasExpired
    )
    late = given(registered).when(SetProfile("Ana"), "ana", after=timedelta(seconds=60), signature=once())
    late.then(SignedCommandHasExpired)
    last = given(registered).when(SetProfile("Ana"), "ana", after=timedelta(seconds=59), signature=once())
    last.then(CommandSigned, ProfileSet)


def test_it_does_not_count_for_ever() -> None:
    most = NOW + P.most_ahead_s
    given(registered).when(SetProfile("A"), "ana", signature=once(expires=most)).then(
        CommandSigned, ProfileSet
    )
    given(registered).when(SetProfile("A"), "ana", signature=once(expires=most + 1)).then(ExpiryIsTooFarAhead)


def test_a_key_that_is_unknown_revoked_or_anothers_signs_nothing() -> None:
    for signer in (phone, ben):
        scenario = given(registered, (ben.registration(), "ben"))
        scenario.when(SetProfile("Ana"), "ana", signature=once(signer=signer)).then(SigningKeyIsUnknown)
    scenario = given(registered).when(RevokeSigningKey(ana.key), "ana", signature=once(1))
    scenario.when(SetProfile("Ana"), "ana", signature=once(2)).then(SigningKeyIsUnknown)


def test_a_key_that_comes_back_does_not_bring_back_what_it_signed_before() -> None:
    scenario = given(registered).when(RevokeSigningKey(ana.key), "ana", signature=once(7))
    scenario.when(ana.registration(), "ana").then(SigningKeyRegistered)
    scenario.when(SetProfile("Ana"), "ana", signature=once(7)).then(NonceIsUsed)


def test_keys_and_nonces_outlive_an_erasure() -> None:
    scenario = (
        given(registered)
        .when(EraseSubject("ana"), "ana", signature=once(1))
        .then(CommandSigned, SubjectErased)
    )
    scenario.when(OpenWallet("wallet:ana"), "ana", signature=once(1)).then(NonceIsUsed)
    scenario.when(OpenWallet("wallet:ana"), "ana", signature=once(2)).then(CommandSigned, WalletOpened)


@hypothesis_given(st.lists(st.integers(1, 12), max_size=30))
def test_whatever_comes_in_whatever_order_each_nonce_counts_once_and_they_rise(sent: list[int]) -> None:
    scenario, accepted = given(registered), [0]
    for nonce in sent:
        scenario.when(SetProfile(f"Ana {nonce}"), "ana", signature=once(nonce))
        if nonce > accepted[-1]:
            accepted.append(nonce)
            assert isinstance(scenario.outcome, list)
        else:
            scenario.then(NonceIsUsed)
    stored = [event.nonce for _, event in scenario.book.events if isinstance(event, CommandSigned)]
    assert stored == accepted[1:] == sorted(set(stored))


# Those who sign everything


def demanding() -> Scenario:
    scenario = given(registered).when(RequireSignatures(), "ana", signature=once(1))
    return scenario.then(CommandSigned, SignaturesRequired(True, START))


def test_nothing_is_done_unsigned_in_the_name_of_one_who_signs_everything() -> None:
    scenario = demanding()
    for role in ("participant", "operator", "provider"):
        scenario.when(OpenWallet("wallet:ana"), "ana", role).then(SignatureIsRequired)
        scenario.when(RequireSignatures(False), "ana", role).then(SignatureIsRequired)
    scenario.when(OpenWallet("wallet:ana"), "ana", signature=once(2)).then(CommandSigned, WalletOpened)
    scenario.when(OpenWallet("wallet:ben"), "ben").then(WalletOpened)


def test_he_takes_it_back_by_a_signed_command() -> None:
    scenario = demanding().when(RequireSignatures(False), "ana", signature=once(2))
    scenario.then(CommandSigned, SignaturesRequired(False, START))
    scenario.when(OpenWallet("wallet:ana"), "ana").then(WalletOpened)


def test_nobody_asks_for_it_without_a_key_that_works() -> None:
    given(registered).when(RequireSignatures(), "ana").then(SignatureIsRequired)


def test_the_same_again_changes_nothing() -> None:
    demanding().when(RequireSignatures(), "ana", signature=once(2)).then(CommandSigned)


def test_one_who_lost_his_key_registers_another_and_does_nothing_else() -> None:
    scenario = demanding().when(RevokeSigningKey(ana.key, "ana")).then(SigningKeyRevoked)
    scenario.when(OpenWallet("wallet:ana"), "ana").then(SignatureIsRequired)
    scenario.when(phone.registration(), "ana").then(SigningKeyRegistered)
    scenario.when(OpenWallet("wallet:ana"), "ana").then(SignatureIsRequired)
    by_phone = once(2, signer=phone)
    scenario.when(OpenWallet("wallet:ana"), "ana", signature=by_phone).then(CommandSigned, WalletOpened)


# Stored and signed bytes


def test_events_survive_being_stored() -> None:
    for _, event in demanding().when(RevokeSigningKey(ana.key, "ana")).book.events:
        assert decode_event(type(event).__name__, event_encoder(type(event))(event)) == event


BODIES = st.recursive(
    st.text() | st.integers(1 - 2**53, 2**53 - 1) | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=8), inner, max_size=5)
    ),
)


@hypothesis_given(BODIES)
def test_our_canonical_json_is_that_of_rfc_8785(body: Any) -> None:
    assert canonical(body).encode() == rfc8785.dumps(body)
