"""What FOGBOOK_PRODUCTION=true refuses: settings that are handy on one's own machine and too weak for strangers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg
import structlog

from ops.settings import APP_ROLE, Settings, SettingsIncomplete

LEAST_PEPPER = 32
LEAST_DIFFERENT = 10
LOOPBACK = ("127.0.0.1", "::1", "localhost")

MAY_REWRITE = """
SELECT rolsuper, pg_has_role(session_user, c.relowner, 'MEMBER')
FROM pg_roles, pg_class c WHERE rolname = session_user AND c.oid = 'public.events'::regclass
"""

MAY_NAME_TIMES = """
SELECT id FROM api_keys
WHERE 'act-at' = ANY(scopes) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) ORDER BY id
"""

log = structlog.get_logger("fogbook.production")


class TooWeak(SettingsIncomplete):
    """A setting is too weak for production; the message says which, and what to do."""


def check_production(settings: Settings) -> None:
    """Refuse what is too weak, and warn of what is dangerous. Raises TooWeak and psycopg.OperationalError."""
    pepper = settings.pepper.get_secret_value()
    if len(pepper) < LEAST_PEPPER or len(set(pepper)) < LEAST_DIFFERENT:
        raise TooWeak(
            f"In production FOGBOOK_PEPPER needs at least {LEAST_PEPPER} characters, {LEAST_DIFFERENT} different ones:"
            " `openssl rand -base64 32` makes one."
        )
    redis = urlsplit(settings.redis_url)
    if redis.hostname and redis.hostname not in LOOPBACK and not redis.password:
        raise TooWeak("In production REDIS_URL needs a password: whoever reaches Valkey may set its keys.")
    with psycopg.connect(settings.database_url, connect_timeout=5) as connection:
        _check_database(connection)


def _check_database(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute(MAY_REWRITE).fetchone()
    if row is None or any(row):
        raise TooWeak(
            "In production the user in DATABASE_URL is no superuser and does not own the tables: he could rewrite"
            f" history. Give him {APP_ROLE} and fogbook_signer only (README, Backups and bad days)."
        )
    with connection.transaction():
        connection.execute(f"SET LOCAL ROLE {APP_ROLE}")
        keys = [id for (id,) in connection.execute(MAY_NAME_TIMES)]
    if keys:
        log.warning("keys_may_name_times", keys=keys)
