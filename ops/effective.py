"""`fogbook config`: the settings as they are in effect, and where each comes from. Secrets are never shown."""

from __future__ import annotations

import ast
import functools
import inspect
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from pydantic import SecretStr
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from ops.settings import Settings, secret_files

MASK = "********"


def effective(settings: Settings) -> list[dict[str, str]]:
    """Of each setting its variable, its value, where that comes from (environment, a file, .env or default),
    and what it is."""
    read = [("environment", EnvSettingsSource(Settings)())]
    read += [("file in FOGBOOK_SECRETS", files()) for files in secret_files(Settings)]
    read.append((".env", DotEnvSettingsSource(Settings)()))
    said = _descriptions()
    shown = []
    for name, known in Settings.model_fields.items():
        alias = str(known.validation_alias or name)
        source = next((where for where, values in read if alias in values or name in values), "default")
        variable = alias if known.validation_alias else f"FOGBOOK_{name.upper()}"
        value = masked(getattr(settings, name))
        shown.append({"variable": variable, "value": value, "source": source, "about": said.get(name, "")})
    return shown


def masked(value: Any) -> str:
    """A value as text: secrets, and passwords in connection strings, as stars."""
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    text = "" if value is None else str(value)
    if "://" in text:
        parts = urlsplit(text)
        if parts.password:
            host = parts.netloc.rpartition("@")[2]
            return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{MASK}@{host}"))
        return text
    if "password" in text:
        return _masked_conninfo(text)
    return text


def _masked_conninfo(text: str) -> str:
    try:
        parts: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        return MASK
    return psycopg.conninfo.make_conninfo(**parts | {"password": MASK})


@functools.cache
def _descriptions() -> dict[str, str]:
    """The text beneath each setting in its class, which Python itself does not keep."""
    (body,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            text = ast.literal_eval(following.value)
            found[ast.unparse(statement.target)] = " ".join(str(text).split())
    return found
