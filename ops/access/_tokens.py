"""Bearer tokens (JWT) of an identity provider, as callers.

A token is taken only if a key of the provider has signed it with the one algorithm that this key is for: what a token
says of its own algorithm is compared, never followed. It is short-lived, was made for us, and names a principal and a
role. None of its claims may give more than its settings allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from commands._codec import ZONE
from commands._models import ID
from ops.access._caller import ACTING, ROLES, Caller, Unauthenticated, is_reserved, is_scope
from ops.access._token_keys import KeySet, KeysUnavailable, TokenKey
from ops.problems import Problem
from ops.settings import Settings, SettingsIncomplete

MOST_SUBJECT = 255
KINDS = ("commands", "queries", "history")
"""What the scopes that restrict begin with; other scopes of a token are not ours."""

REASONS: dict[str, str] = {
    "token-malformed": "it is no JWT that can be read",
    "token-key-unknown": "its key is none of the issuer's",
    "token-algorithm-wrong": "its algorithm is not that of its key",
    "token-signature-wrong": "its signature does not hold",
    "token-expired": "it has expired",
    "token-not-yet-valid": "it is not valid yet",
    "token-audience-wrong": "it was made for somebody else",
    "token-issuer-wrong": "its issuer is not known here",
    "token-claim-missing": "one of its claims iss, aud, sub, exp and iat is missing, or that of the principal",
    "token-too-long-lived": "it lives longer than is allowed here",
    "token-role-unknown": "it names no role that there is",
    "token-principal-malformed": "its principal is not 1 to 64 of the characters a-z 0-9 . _ -, or is reserved",
    "token-scope-malformed": "one of its scopes looks like ours, and is none",
    "token-zone-malformed": "one of its zones is no zone's name",
}

FOUND: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "token-expired"),
    (jwt.ImmatureSignatureError, "token-not-yet-valid"),
    (jwt.InvalidAudienceError, "token-audience-wrong"),
    (jwt.InvalidIssuerError, "token-issuer-wrong"),
    (jwt.MissingRequiredClaimError, "token-claim-missing"),
    (jwt.InvalidSignatureError, "token-signature-wrong"),
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What tokens have to say to be taken, and where they say it."""

    issuer: str
    audience: str
    lifetime_s: int = 3_600
    leeway_s: int = 10
    principal_claim: str = "sub"
    role_claim: str = "role"
    scopes_claim: str = "scope"
    zones_claim: str = "zones"
    may_act: bool = False
    """Whether a token's scopes `act-as` and `act-at` count."""


class Tokens:
    def __init__(self, terms: Terms, keys: KeySet) -> None:
        self._terms = terms
        self._keys = keys

    def on_change(self, forget: Callable[[], None]) -> None:
        """`forget` is called when the issuer has taken back a key: tokens that it signed are to be forgotten."""
        self._keys.taken_back = forget

    async def run(self) -> None:
        await self._keys.run()

    async def caller(self, token: str) -> tuple[Caller, float]:
        """The caller that a token stands for, and until when, by the monotonic clock. Raises Problem 401 and 503."""
        kid, algorithm = _header(token)
        try:
            key = await self._keys.find(kid)
        except KeysUnavailable:
            raise Problem(
                503,
                "token-keys-unavailable",
                "The keys of the tokens' issuer cannot be read now; API keys work.",
                headers={"Retry-After": "5"},
            ) from None
        if key is None:
            raise _invalid("token-key-unknown")
        if key.algorithm != algorithm:
            raise _invalid("token-algorithm-wrong")
        claims = self._claims(token, key)
        caller = self._caller(claims)
        return caller, time.monotonic() + int(claims["exp"]) + self._terms.leeway_s - time.time()

    def _claims(self, token: str, key: TokenKey) -> dict[str, Any]:
        terms = self._terms
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=terms.audience,
                issuer=terms.issuer,
                leeway=terms.leeway_s,
                options={"require": ["iss", "aud", "sub", "exp", "iat"]},
            )
            lifetime_s = int(claims["exp"]) - int(claims["iat"])
        # Numbers that are none and nesting without end are let through by the library as errors of other kinds.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            reasons = (reason for kind, reason in FOUND if isinstance(error, kind))
            raise _invalid(next(reasons, "token-malformed")) from None
        if lifetime_s > terms.lifetime_s:
            raise _invalid("token-too-long-lived")
        return claims

    def _caller(self, claims: dict[str, Any]) -> Caller:
        terms, subject = self._terms, claims["sub"]
        if not isinstance(subject, str) or not subject.isprintable() or len(subject) > MOST_SUBJECT:
            raise _invalid("token-malformed")
        return Caller(
            key_id=f"token:{subject}",
            principal=_principal(claims.get(terms.principal_claim)),
            role=_role(claims.get(terms.role_claim)),
            scopes=_scopes(claims.get(terms.scopes_claim), terms.may_act),
            zones=_zones(claims.get(terms.zones_claim)),
            issuer=terms.issuer,
        )


def tokens_of(settings: Settings) -> Tokens:
    """Raises SettingsIncomplete."""
    if not all((settings.token_issuer, settings.token_audience, settings.token_keys)):
        raise SettingsIncomplete(
            "FOGBOOK_TOKEN_ISSUER, FOGBOOK_TOKEN_AUDIENCE and FOGBOOK_TOKEN_KEYS are set together, or not at all."
        )
    terms = Terms(
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime_s=settings.token_lifetime_s,
        leeway_s=settings.token_leeway_s,
        principal_claim=settings.token_principal_claim,
        role_claim=settings.token_role_claim,
        scopes_claim=settings.token_scopes_claim,
        zones_claim=settings.token_zones_claim,
        may_act=settings.token_may_act,
    )
    return Tokens(terms, KeySet(settings.token_keys, frozenset(settings.token_algorithms)))


def _invalid(reason: str) -> Unauthenticated:
    """What is wrong is said, in words of our own: nothing of the token is."""
    return Unauthenticated(
        reason,
        f"The token is not valid: {REASONS[reason]}.",
        challenge=f'Bearer error="invalid_token", error_description="{REASONS[reason]}"',
    )


def _header(token: str) -> tuple[str, str]:
    """The id of the key and the algorithm that a token names."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _invalid("token-malformed") from None
    kid, algorithm = header.get("kid"), header.get("alg")
    # What `crit` lists has to be understood by whoever verifies (RFC 7515), and nothing is understood here.
    if not isinstance(kid, str) or not isinstance(algorithm, str) or "crit" in header:
        raise _invalid("token-malformed")
    return kid, algorithm


def _principal(claim: Any) -> str:
    if claim is None:
        raise _invalid("token-claim-missing")
    # As it is: issuers tell upper case from lower case, and two of their subjects must not become one of ours.
    if not isinstance(claim, str) or not ID.match(claim) or is_reserved(claim):
        raise _invalid("token-principal-malformed")
    return claim


def _role(claim: Any) -> str:
    role = claim[0] if isinstance(claim, list) and len(claim) == 1 else claim
    if role not in ROLES:
        raise _invalid("token-role-unknown")
    return str(role)


def _scopes(claim: Any, may_act: bool) -> frozenset[str]:
    ours = {scope for scope in _words(claim) if scope in ACTING or scope.startswith(KINDS)}
    if not all(is_scope(scope) for scope in ours):
        raise _invalid("token-scope-malformed")
    return frozenset(ours if may_act else ours - ACTING)


def _zones(claim: Any) -> frozenset[str]:
    zones = _words(claim) or ["main"]
    if not all(zone == "*" or ZONE.match(zone) for zone in zones):
        raise _invalid("token-zone-malformed")
    return frozenset(zones)


def _words(claim: Any) -> list[str]:
    """A claim of several words: a list of texts, or one text with blanks in between."""
    if claim is None:
        return []
    words = claim.split(" ") if isinstance(claim, str) else claim
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _invalid("token-malformed")
    return [word for word in words if word]
