"""Bearer tokens: whatever is wrong with one, it opens nothing, and the answer says which rule it broke."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hmac
import itertools
import json
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from ops.access import Access, Caller, Unauthenticated, _token_keys
from ops.access._token_keys import KeySet, keys_in
from ops.access._tokens import REASONS, Terms, Tokens, tokens_of
from ops.logging import hide_secrets
from ops.problems import Problem
from ops.settings import Settings, SettingsIncomplete
from tests.logs import captured_logs
from tests.tokens import AUDIENCE, ISSUER, KINDS, Provider, public_jwk

ALL = frozenset(KINDS)


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    made = Provider(tmp_path / "jwks.json")
    made.add("k1")
    return made


def access_of(provider: Provider, algorithms: frozenset[str] = ALL, **terms: Any) -> Access:
    keys = KeySet(str(provider.file), algorithms)
    pool: Any = None  # Tokens need no database.
    return Access(pool, b"a pepper for tests only", Tokens(Terms(ISSUER, AUDIENCE, **terms), keys))


def caller(provider: Provider, token: str, algorithms: frozenset[str] = ALL, **terms: Any) -> Caller:
    return asyncio.run(access_of(provider, algorithms, **terms).caller(f"Bearer {token}"))


def refusal(
    provider: Provider, token: str, algorithms: frozenset[str] = ALL, **terms: Any
) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as error:
        caller(provider, token, algorithms, **terms)
    return error.value


# What is taken


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_good_token_is_its_principal_in_its_role(provider: Provider, algorithm: str) -> None:
    provider.add("k2", algorithm)
    found = caller(provider, provider.token("k2", zones=["main", "north"], scope="openid commands:ledger"))
    assert (found.key_id, found.issuer, found.principal) == ("token:ana", ISSUER, "ana")
    assert (found.role, found.zones) == ("participant", {"main", "north"})
    assert found.limits == {"commands:ledger"}


def test_a_token_that_names_no_zone_is_for_main_and_one_without_our_scopes_is_not_restricted(
    provider: Provider,
) -> None:
    found = caller(provider, provider.token(scope="openid email"))
    assert (found.zones, found.scopes) == ({"main"}, frozenset())


def test_claims_have_the_names_that_the_settings_say(provider: Provider) -> None:
    token = provider.token(
        sub="auth0|7F", role=None, name="ben", groups=["auditor"], permissions=["history"], areas="a *"
    )
    found = caller(
        provider,
        token,
        principal_claim="name",
        role_claim="groups",
        scopes_claim="permissions",
        zones_claim="areas",
    )
    assert (found.key_id, found.principal, found.role) == ("token:auth0|7F", "ben", "auditor")
    assert (found.scopes, found.zones) == ({"history"}, {"a", "*"})


def test_a_token_acts_for_nobody_else_unless_a_setting_allows_it(provider: Provider) -> None:
    token = provider.token(role="operator", scope="act-as act-at")
    assert caller(provider, token).scopes == frozenset()
    assert caller(provider, token, may_act=True).scopes == {"act-as", "act-at"}


def test_the_audience_may_be_one_of_several(provider: Provider) -> None:
    assert caller(provider, provider.token(aud=["others", AUDIENCE])).principal == "ana"


# What is refused


@dataclass(frozen=True)
class In:
    """So many seconds from now, whenever the test runs."""

    seconds: int


def resolved(claims: dict[str, Any]) -> dict[str, Any]:
    return {name: time.time() + v.seconds if isinstance(v, In) else v for name, v in claims.items()}


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "it has expired": ({"iat": In(-700), "exp": In(-60)}, "token-expired"),
    "it begins later": ({"nbf": In(3_600)}, "token-not-yet-valid"),
    "it was made later": ({"iat": In(1_000), "exp": In(1_200)}, "token-not-yet-valid"),
    "it is for others": ({"aud": "others"}, "token-audience-wrong"),
    "it is for nobody": ({"aud": []}, "token-claim-missing"),
    "it is by others": ({"iss": ISSUER + "evil"}, "token-issuer-wrong"),
    "it lives too long": ({"exp": In(3_900)}, "token-too-long-lived"),
    "it lives for ever": ({"exp": 10**15}, "token-too-long-lived"),
    "it has no issuer": ({"iss": None}, "token-claim-missing"),
    "it has no audience": ({"aud": None}, "token-claim-missing"),
    "it has no subject": ({"sub": None}, "token-claim-missing"),
    "it has no end": ({"exp": None}, "token-claim-missing"),
    "it has no beginning": ({"iat": None}, "token-claim-missing"),
    "its end is no number": ({"exp": "soon"}, "token-malformed"),
    "its end is infinite": ({"exp": float("inf")}, "token-malformed"),
    "its end is a list": ({"exp": [1]}, "token-malformed"),
    "its beginning is none": ({"iat": float("nan")}, "token-malformed"),
    "its subject is no text": ({"sub": 7}, "token-malformed"),
    "its subject has a line end": ({"sub": "ana\nroot"}, "token-malformed"),
    "its subject has no end": ({"sub": "a" * 300}, "token-malformed"),
    "it has no role": ({"role": None}, "token-role-unknown"),
    "its role is none": ({"role": "root"}, "token-role-unknown"),
    "it has two roles": ({"role": ["operator", "auditor"]}, "token-role-unknown"),
    "its role is an object": ({"role": {"operator": True}}, "token-role-unknown"),
    "its principal is an account": ({"sub": "fees"}, "token-principal-malformed"),
    "its principal is in capitals": ({"sub": "Ana"}, "token-principal-malformed"),
    "its principal is a path": ({"sub": "pool:rewards"}, "token-principal-malformed"),
    "its scope is nearly one": ({"scope": "commands:*"}, "token-scope-malformed"),
    "its scopes are numbers": ({"scope": [1]}, "token-malformed"),
    "its zone is none": ({"zones": "No/Zone"}, "token-zone-malformed"),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_token_is_refused_because(provider: Provider, what: str) -> None:
    changed, reason = CLAIMS[what]
    token = provider.token(**resolved(changed))
    problem = refusal(provider, token)
    assert (problem.status, problem.name, problem.reason) == (401, "unauthenticated", reason)
    assert problem.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"')
    said = json.dumps(problem.body) + str(problem.headers) + str(problem)
    assert not any(part in said for part in (*token.split("."), "evil", "root", "Ana"))


def test_the_clocks_may_differ_a_little_and_no_more(provider: Provider) -> None:
    for seconds, is_taken in ((-5, True), (-15, False)):
        token = provider.token(iat=time.time() - 700, exp=time.time() + seconds)
        if is_taken:
            assert caller(provider, token).principal == "ana"
        else:
            assert refusal(provider, token).reason == "token-expired"


def in_parts(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    signed = ".".join(part(json.dumps(each).encode()) for each in (header, claims))
    return f"{signed}.{part(sign(signed.encode()))}"


def test_nobody_signs_with_what_is_public(provider: Provider) -> None:
    """A verifier that follows the token's own `alg` takes the public key for the secret of an HMAC."""
    for kid, algorithm in (("k1", "EdDSA"), ("k2", "RS256"), ("k3", "ES256")):
        provider.add(kid, algorithm)
        jwk = json.dumps(public_jwk(provider.keys[kid][1], algorithm, kid)).encode()
        public = provider.keys[kid][1].public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for secret, name in itertools.product((jwk, pem, b""), ("HS256", "HS512")):
            sign = functools.partial(hmac.digest, secret, digest=name.replace("HS", "sha"))
            token = in_parts({"alg": name, "kid": kid}, provider.claims(), sign)
            assert refusal(provider, token).reason == "token-algorithm-wrong"


@pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
def test_a_token_without_a_signature_is_none(provider: Provider, name: str) -> None:
    token = in_parts({"alg": name, "kid": "k1"}, provider.claims(), lambda message: b"")
    assert refusal(provider, token).reason in ("token-algorithm-wrong", "token-malformed")


def test_a_key_verifies_its_own_algorithm_only(provider: Provider) -> None:
    provider.add("k2", "RS256")
    token = jwt.encode(provider.claims(), provider.keys["k2"][1], "PS256", headers={"kid": "k2"})
    assert refusal(provider, token).reason == "token-algorithm-wrong"
    swapped = jwt.encode(provider.claims(), provider.keys["k2"][1], "RS256", headers={"kid": "k1"})
    assert refusal(provider, swapped).reason == "token-algorithm-wrong"


def test_an_algorithm_that_is_not_allowed_here_has_no_keys(provider: Provider) -> None:
    provider.add("k2", "RS256")
    assert refusal(provider, provider.token("k2"), frozenset({"EdDSA"})).reason == "token-key-unknown"
    assert caller(provider, provider.token("k1"), frozenset({"EdDSA"})).principal == "ana"


def test_whatever_is_altered_does_not_hold(provider: Provider) -> None:
    token = provider.token()
    header, claims, signature = token.split(".")
    altered = base64.urlsafe_b64encode(
        base64.urlsafe_b64decode(claims + "==").replace(b"participant", b"operator   ")
    ).decode()
    flipped = ("A" if signature[10] != "A" else "B").join((signature[:10], signature[11:]))
    for wrong in (
        f"{header}.{altered.rstrip('=')}.{signature}",
        f"{header}.{claims}.{flipped}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-2]}",
    ):
        assert refusal(provider, wrong).reason == "token-signature-wrong"


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "e30.e30.",
        "bnVsbA.e30.e30",
        "W10.e30.e30",
        base64.urlsafe_b64encode(b"[" * 3_000).decode() + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg":"EdDSA","kid":7}').decode().rstrip("=") + ".e30.e30",
        base64.urlsafe_b64encode(b'{"alg":"EdDSA"}').decode().rstrip("=") + ".e30.e30",
        "\xff.\xff.\xff",
    ],
)
def test_what_is_no_token_is_refused(provider: Provider, token: str) -> None:
    assert refusal(provider, token).reason == "token-malformed"


def test_what_has_to_be_understood_and_is_not_is_refused(provider: Provider) -> None:
    token = provider.token(headers={"crit": ["exp"], "exp": 1})
    assert refusal(provider, token).reason == "token-malformed"


def test_a_key_that_a_token_brings_along_is_not_looked_at(provider: Provider) -> None:
    provider.add("evil", publish=False)
    own = public_jwk(provider.keys["evil"][1], "EdDSA", "k1")
    token = provider.token("evil", headers={"kid": "k1", "jwk": own, "jku": "http://127.0.0.1:1/jwks"})
    assert refusal(provider, token).reason == "token-signature-wrong"


def test_claims_that_nest_without_end_are_refused(provider: Provider) -> None:
    algorithm, key = provider.keys["k1"]
    token = jwt.PyJWS().encode(b'{"sub":' + b"[" * 3_000, key, algorithm, headers={"kid": "k1"})
    assert refusal(provider, token).reason == "token-malformed"


def test_a_token_that_is_too_long_is_not_even_read(provider: Provider) -> None:
    assert refusal(provider, provider.token(padding="x" * 9_000)).reason == "credentials-too-long"


def test_every_reason_is_one_that_is_explained(provider: Provider) -> None:
    assert {reason for _, reason in CLAIMS.values()} <= set(REASONS)


def test_a_token_does_not_reach_a_log(provider: Provider) -> None:
    token = provider.token()
    said = hide_secrets(f"asked with Bearer {token} twice")
    assert said == f"asked with Bearer {token.split('.')[0]}.*** twice"


# Keys that come and go


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(_token_keys, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


Reads = list[str]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """How often keys were read, and from where."""
    seen: Reads = []
    read = _token_keys.read_bounded

    async def counted(source: str) -> bytes:
        seen.append(source)
        return await read(source)

    monkeypatch.setattr(_token_keys, "read_bounded", counted)
    return seen


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_a_new_key_is_found_when_it_is_first_used_and_unknown_ones_are_looked_for_once_a_minute(
    provider: Provider, clock: list[float], reads: Reads
) -> None:
    async def scenario() -> None:
        access = access_of(provider)
        await access.caller(f"Bearer {provider.token()}")
        assert len(reads) == 1
        clock[0] += 61
        provider.add("k2")
        assert (await access.caller(f"Bearer {provider.token('k2')}")).principal == "ana"
        assert len(reads) == 2
        provider.add("k3", publish=False)
        for i in range(20):
            with pytest.raises(Unauthenticated) as error:
                await access.caller(f"Bearer {provider.token('k3', jti=str(i))}")
            assert error.value.reason == "token-key-unknown"
        assert len(reads) == 2, "not within the minute"
        clock[0] += 61
        unknown = [access.caller(f"Bearer {provider.token('k3', jti=str(i))}") for i in range(20)]
        found = await asyncio.gather(*unknown, return_exceptions=True)
        assert all(isinstance(each, Unauthenticated) for each in found)
        assert len(reads) == 3, "one for all of them"

    run(scenario)


def test_a_token_is_verified_once_and_not_after_its_issuer_took_its_key_back(
    provider: Provider, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        access = access_of(provider)
        header = f"Bearer {provider.token()}"
        first = await access.caller(header)
        with monkeypatch.context() as patched:
            patched.setattr(jwt, "decode", None)
            assert await access.caller(header) is first
        provider.add("k2")
        provider.publish("k2")
        clock[0] += _token_keys.AGE_S
        assert access._tokens is not None
        await access._tokens._keys.refresh(_token_keys.AGE_S)
        with pytest.raises(Unauthenticated) as error:
            await access.caller(header)
        assert error.value.reason == "token-key-unknown"

    run(scenario)


def test_a_token_ends_when_it_expires_also_while_it_is_remembered(provider: Provider) -> None:
    async def scenario() -> None:
        access = access_of(provider, leeway_s=0)
        for lasting_s in (2, 20):  # A busy machine may not even have begun when the first one ends.
            header = f"Bearer {provider.token(exp=int(time.time()) + lasting_s)}"
            with contextlib.suppress(Unauthenticated):
                await access.caller(header)
                break
        ((until, _),) = access._cache.values()
        assert until - time.monotonic() <= lasting_s
        access._cache = {name: (time.monotonic(), who) for name, (_, who) in access._cache.items()}
        await asyncio.sleep(max(0.0, until - time.monotonic()) + 0.01)
        with pytest.raises(Unauthenticated) as error:
            await access.caller(header)
        assert error.value.reason == "token-expired"

    run(scenario)


def test_while_the_issuers_keys_cannot_be_read_the_last_ones_hold_for_a_day(
    provider: Provider, clock: list[float]
) -> None:
    async def scenario() -> None:
        access = access_of(provider)
        await access.caller(f"Bearer {provider.token()}")
        provider.file.unlink()
        clock[0] += 3_600
        with captured_logs() as logs:
            assert access._tokens is not None
            await access._tokens._keys.refresh(_token_keys.AGE_S)
        assert [entry["event"] for entry in logs] == ["token_keys_unreadable"]
        await access.caller(f"Bearer {provider.token(jti='2')}")
        clock[0] += _token_keys.MOST_STALE_S
        with pytest.raises(Problem) as error:
            await access.caller(f"Bearer {provider.token(jti='3')}")
        assert (error.value.status, error.value.name) == (503, "token-keys-unavailable")

    run(scenario)


def test_without_any_keys_the_answer_is_to_come_back(provider: Provider) -> None:
    provider.file.write_text("no keys")
    with pytest.raises(Problem) as error, captured_logs():
        caller(provider, provider.token())
    assert (error.value.status, error.value.headers) == (503, {"Retry-After": "5"})


def test_keys_that_must_not_verify_are_passed_over(provider: Provider) -> None:
    provider.add("rsa", "RS256")
    good = public_jwk(provider.keys["k1"][1], "EdDSA", "good")
    rsa = public_jwk(provider.keys["rsa"][1], "RS256", "rsa")
    private = jwt.get_algorithm_by_name("EdDSA").to_jwk(provider.keys["k1"][1], as_dict=True)
    small = {**rsa, "kid": "small", "n": rsa["n"][:128]}
    listed: list[dict[str, Any]] = [
        good,
        {**good, "x": good["x"][::-1]},  # A second one of the same name.
        {**private, "kid": "private"},
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"},
        {**good, "kid": "for-encryption", "use": "enc"},
        {**rsa, "kid": "other-padding", "alg": "PS256"},
        {**good, "kid": "broken", "x": "!"},
        {**good, "kid": 7},
        {"kty": ["OKP"], "crv": {}, "kid": "odd"},
        small,
    ]
    with captured_logs() as logs:
        found = keys_in(json.dumps({"keys": listed}).encode(), ALL)
    assert list(found) == ["good"]
    assert found["good"].jwk == keys_in(json.dumps({"keys": [good]}).encode(), ALL)["good"].jwk
    assert len(logs) == len(listed) - 1
    assert "c2VjcmV0" not in str(logs)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b'{"keys":{}}', b'{"keys":[1]}', b'{"keys":[' + b"{}," * 100 + b"{}]}"]
)
def test_what_is_no_set_of_keys_changes_nothing(document: bytes, provider: Provider) -> None:
    async def scenario() -> None:
        keys = KeySet(str(provider.file), ALL)
        await keys.refresh(0)
        provider.file.write_bytes(document)
        with captured_logs() as logs:
            await keys.refresh(0)
        assert logs
        assert await keys.find("k1") is not None

    run(scenario)


# Keys over HTTP


class Web(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, dict[str, str], bytes]]

    def do_GET(self) -> None:
        status, headers, body = self.answers[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_keys_come_over_http_bounded_and_by_no_detour(provider: Provider) -> None:
    body = provider.file.read_bytes()
    Web.answers = {
        "/good": (200, {}, body),
        "/moved": (302, {"Location": "/good"}, b""),
        "/large": (200, {}, body[:-1] + b" " * _token_keys.MOST_BYTES + body[-1:]),
        "/away": (500, {}, body),
    }

    async def scenario(base: str) -> None:
        assert json.loads(await _token_keys.read_bounded(f"{base}/good")) == json.loads(body)
        for path in ("/moved", "/large", "/away"):
            with pytest.raises(ValueError, match=r"answers with|at most"):
                await _token_keys.read_bounded(base + path)

    with HTTPServer(("127.0.0.1", 0), Web) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            asyncio.run(scenario(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()


def test_an_issuer_that_goes_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_token_keys, "DEADLINE_S", 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent, captured_logs() as logs:
        keys = KeySet(f"http://127.0.0.1:{silent.getsockname()[1]}/", ALL)
        with pytest.raises(_token_keys.KeysUnavailable):
            asyncio.run(keys.find("k1"))
    assert [entry["event"] for entry in logs] == ["token_keys_unreadable"]


# Settings


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"FOGBOOK_TOKEN_{name.upper()}", value)
    return Settings()


def test_tokens_are_off_unless_they_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settings(monkeypatch).takes_tokens
    half = settings(monkeypatch, issuer=ISSUER)
    assert half.takes_tokens
    with pytest.raises(SettingsIncomplete, match="FOGBOOK_TOKEN_AUDIENCE"):
        tokens_of(half)
    whole = settings(monkeypatch, audience=AUDIENCE, keys="jwks.json", algorithms="EdDSA RS256")
    assert tokens_of(whole) is not None
    assert whole.token_algorithms == ("EdDSA", "RS256")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithms", "none"),
        ("algorithms", "EdDSA HS256"),
        ("algorithms", " "),
        ("keys", "http://login.example/jwks"),
        ("keys", "ftp://login.example/jwks"),
        ("keys", "https://[login/jwks"),
        ("lifetime_s", "0"),
        ("lifetime_s", "604800"),
        ("leeway_s", "3600"),
    ],
)
def test_a_setting_that_would_weaken_tokens_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValidationError):
        settings(monkeypatch, **{name: value})


@pytest.mark.parametrize(
    "source", ["https://login.example/jwks", "http://127.0.0.1:8/jwks", "/etc/jwks.json", "jwks"]
)
def test_keys_are_read_from_files_and_over_tls(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    assert settings(monkeypatch, keys=source).token_keys == source
