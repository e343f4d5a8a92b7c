"""API keys from the command line, and those that `up` keeps in its home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from ops.access import create_key, secret_digest
from ops.home import KEYS_FILE, write_private

LIST = """
SELECT id, name, principal, role, scopes, zones, created_at, expires_at, revoked_at, last_used_at, lineage
FROM api_keys ORDER BY created_at, id
"""

VALID = """
SELECT 1 FROM api_keys WHERE id = %s AND digest = %s AND revoked_at IS NULL
AND (expires_at IS NULL OR expires_at > now())
"""

KEPT: dict[str, dict[str, Any]] = {
    "admin": {"principal": "admin", "role": "operator", "scopes": ("act-as", "act-at"), "zones": ("*",)},
    "worker": {"principal": "worker", "role": "worker", "scopes": ("act-at",), "zones": ("*",)},
}
"""The keys that `up` makes at its first start."""


def list_keys(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    cursor = connection.execute(LIST)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def keep_keys(connection: psycopg.Connection[Any], home: Path, pepper: bytes) -> dict[str, str]:
    """The keys of this home by name, made anew where they are missing or no longer valid."""
    path = home / KEYS_FILE
    try:
        kept: dict[str, str] = dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        kept = {}
    changed = False
    for name, terms in KEPT.items():
        if not _is_valid(connection, pepper, kept.get(name, "")):
            kept[name] = create_key(connection, pepper, name=f"{name} of up", **terms).key
            changed = True
    if changed:
        write_private(path, json.dumps(kept, indent=2) + "\n")
    return kept


def _is_valid(connection: psycopg.Connection[Any], pepper: bytes, key: str) -> bool:
    _, id, secret = (*key.split("_", 2), "", "")[:3]
    return connection.execute(VALID, (id, secret_digest(pepper, secret))).fetchone() is not None
