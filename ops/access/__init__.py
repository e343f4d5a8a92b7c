"""Who calls, in which role, for which zones and scopes: by API keys, and by the tokens of an identity provider.

Whoever is refused, and what administrators do, is recorded in the access log.
"""

from ops.access._caller import ROLES, SCOPES, Caller, Unauthenticated, is_reserved, is_scope
from ops.access._journal import administered, record_refusal
from ops.access._keys import (
    KeyRefused,
    NewKey,
    Rotated,
    create_key,
    revoke_key,
    rotate_key,
    secret_digest,
)
from ops.access._lookup import CACHE_S, Access, open_access

__all__ = [
    "CACHE_S",
    "ROLES",
    "SCOPES",
    "Access",
    "Caller",
    "KeyRefused",
    "NewKey",
    "Rotated",
    "Unauthenticated",
    "administered",
    "create_key",
    "is_reserved",
    "is_scope",
    "open_access",
    "record_refusal",
    "revoke_key",
    "rotate_key",
    "secret_digest",
]
