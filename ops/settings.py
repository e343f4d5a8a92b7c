"""Settings, read from the environment once, at the root of a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

APP_ROLE = "fogbook_app"
"""The database role that Fogbook works in: it appends events by functions only, and reads them."""

LOG_ROLE = "fogbook_log"
"""The role that owns the functions by which events are appended. Nobody works in it."""

SIGNER_ROLE = "fogbook_signer"
"""The role of whoever signs checkpoints: it alone may add to trees, attestations, keys and signed checkpoints."""

TOKEN_ALGORITHMS = ("EdDSA", "ES256", "RS256")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
READER_ROLE = "fogbook_reader"
"""The role of analysts: it reads the views of the schema `reporting`. Give it to their logins."""

REDIS_SCHEMES = ("redis", "rediss", "unix")

Rate = Annotated[str, StringConstraints(pattern=r"^(off|[1-9][0-9]{0,5}/[1-9][0-9]{0,6})$")]
"""`200/1000`: 200 a second, and at most 1000 at once; or `off`."""


class Settings(BaseSettings):
    """Every setting is an environment variable, `FOGBOOK_...` unless another name is usual."""

    model_config = SettingsConfigDict(env_prefix="FOGBOOK_", env_file=".env", extra="ignore", frozen=True)

    secrets: Path | None = None
    """A folder with a file for each setting that is not to stand in the environment, called as its variable is
    (`fogbook_pepper`); the environment wins."""

    database_url: str = Field(default="", validation_alias="DATABASE_URL")
    redis_url: str = Field(default="", validation_alias="REDIS_URL")
    migrate_database_url: str = ""
    """The owner's URL for `fogbook migrate`; DATABASE_URL where it is not set."""
    pepper: SecretStr = SecretStr("")
    """Keys the HMAC under which API keys are stored; at least 16 characters."""
    home: Path = Path("~/.fogbook")
    subject_keys: Path | None = None
    """The folder of the keys under which personal texts are sealed (commands/_subjects.py): never in the database's
    backups. HOME/subjects where it is not set."""
    host: str = "127.0.0.1"
    port: int = 8420
    prepare_statements: bool = True
    """Off behind PgBouncer in transaction mode."""
    api_url: str = ""
    """Where workers send the commands of timers."""
    worker_key: SecretStr = SecretStr("")
    """The API key of the workers, role worker."""
    database_wait_s: float = Field(default=5.0, gt=0)
    """How long a request waits for PostgreSQL, for each statement and for a connection, until it is answered 503.
    Workers give theirs twice as long."""
    streams_in_memory: int = 50_000
    query_connections: int = 8
    min_position_wait_s: float = 5.0
    log_origin: str = ""
    """What the names of the zones' logs begin with in checkpoints; follows from the pepper where it is not set."""
    signed: Path | None = None
    """The folder where the archivist keeps what it signed last (ops/signed.py): never in the database's backups.
    HOME/signed, if there is such a folder, where it is not set."""
    checkpoint_every_s: float = Field(default=10.0, gt=0)
    """How often zones that have moved get a signed checkpoint."""
    archive: bool = True
    """Keep every version of each row of the read models, for questions as of a position."""
    log_level: str = "info"
    traces_url: str = ""
    """Where traces go: a collector that takes OTLP over HTTP, such as http://localhost:4318. Off where it is empty."""
    traces_a_second: int = Field(default=50, ge=1, le=10_000)
    """How many requests a second each process traces at most, whoever asks for it."""

    # Tokens of an identity provider (ops/access/_tokens.py): taken where the first three are set.
    token_issuer: str = ""
    """What `iss` has to be."""
    token_audience: str = ""
    """What `aud` has to be, or to hold."""
    token_keys: str = ""
    """The issuer's public keys, a JWK Set: a file, or an https URL."""
    token_algorithms: Annotated[tuple[str, ...], NoDecode] = TOKEN_ALGORITHMS
    """Which of these are taken; with blanks in between."""
    token_lifetime_s: int = Field(default=3_600, gt=0, le=86_400)
    """How far apart `iat` and `exp` may be."""
    token_leeway_s: int = Field(default=10, ge=0, le=300)
    """How far the issuer's clock may be off."""
    token_principal_claim: str = "sub"  # noqa: S105 - the name of a claim
    token_role_claim: str = "role"  # noqa: S105 - the name of a claim
    token_scopes_claim: str = "scope"  # noqa: S105 - the name of a claim
    token_zones_claim: str = "zones"  # noqa: S105 - the name of a claim
    token_may_act: bool = False
    """Whether the scopes act-as and act-at of a token count."""

    production: bool = False
    """Refuse to serve with settings that are too weak for strangers, and show no documentation."""
    hosts: str = ""
    """Names and addresses, with commas in between, that requests may be for; any where it is empty."""
    hsts_s: int = Field(default=0, ge=0)
    """How long browsers are to insist on TLS; for an API that is reached by TLS only."""
    trusted_proxies: str = ""
    """Addresses, with commas in between, whose X-Forwarded-For names the client."""

    # Limits (ops/limits.py). A rate is `a second/burst` or `off`.
    rate_commands: Rate = "200/1000"
    rate_commands_principal: Rate = "400/2000"
    rate_queries: Rate = "200/1000"
    rate_queries_principal: Rate = "400/2000"
    rate_failures: Rate = "5/100"
    most_commands: int = Field(default=1024, ge=1)
    most_commands_per_key: int = Field(default=256, ge=1)
    most_queries: int = Field(default=512, ge=1)
    most_queries_per_key: int = Field(default=128, ge=1)
    most_history: int = Field(default=64, ge=1)
    most_history_per_key: int = Field(default=16, ge=1)
    most_live: int = Field(default=200, ge=1)
    most_live_per_key: int = Field(default=20, ge=1)
    most_connections: int = Field(default=4096, ge=1)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, *secret_files(settings_cls), dotenv_settings

    @field_validator("database_url", "migrate_database_url")
    @classmethod
    def _is_connection_string(cls, url: str) -> str:
        """Whoever used a wrong one later would quote it, and passwords with it."""
        import psycopg

        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise PydanticCustomError(
                "url", "it is no connection string of PostgreSQL (are special characters escaped?)"
            ) from None
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_one = not url or (parts.scheme in REDIS_SCHEMES and parts.port != 0)
        except ValueError:
            is_one = False
        if not is_one:
            raise PydanticCustomError(
                "url", "it is no URL of Valkey or Redis (are special characters escaped?)"
            )
        return url

    @field_validator("traces_url")
    @classmethod
    def _is_http_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_one = not url or (
                parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            )
        except ValueError:
            is_one = False
        if not is_one:
            raise PydanticCustomError("url", "it is no http or https URL")
        return url

    @field_validator("token_algorithms", mode="before")
    @classmethod
    def _are_known(cls, value: Any) -> Any:
        words = value.split() if isinstance(value, str) else value
        if not words or not set(words) <= set(TOKEN_ALGORITHMS):
            raise PydanticCustomError("algorithms", f"it is not some of {' '.join(TOKEN_ALGORITHMS)}")
        return tuple(words)

    @field_validator("token_keys")
    @classmethod
    def _is_read_safely(cls, source: str) -> str:
        """Whoever could change the keys on their way could sign tokens."""
        if "://" not in source:
            return source
        try:
            parts = urlsplit(source)
            is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        except ValueError:
            is_safe = False
        if not is_safe:
            raise PydanticCustomError("url", "it is neither a file nor an https URL")
        return source

    @property
    def takes_tokens(self) -> bool:
        return bool(self.token_issuer or self.token_audience or self.token_keys)

    @property
    def subject_folder(self) -> Path:
        return (self.subject_keys or self.home / "subjects").expanduser()

    @property
    def pepper_bytes(self) -> bytes:
        pepper = self.pepper.get_secret_value().encode()
        if len(pepper) < 16:
            raise SettingsIncomplete("FOGBOOK_PEPPER must be set, to at least 16 characters.")
        return pepper


def secret_files(settings: type[BaseSettings]) -> list[PydanticBaseSettingsSource]:
    """The folder in FOGBOOK_SECRETS as a source of settings. Raises SettingsIncomplete."""
    folder = os.environ.get("FOGBOOK_SECRETS")
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise SettingsIncomplete("FOGBOOK_SECRETS names no folder.")
    return [SecretsSettingsSource(settings, secrets_dir=folder)]


class SettingsIncomplete(Exception):
    """A setting that this process needs is missing; the message says which."""
