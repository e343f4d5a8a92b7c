"""Settings, read from the environment once, at the root of a process."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

APP_ROLE = "fogbook_app"
"""The database role that Fogbook works in: it appends events by functions only, and reads them."""

LOG_ROLE = "fogbook_log"
"""The role that owns the functions by which events are appended. Nobody works in it."""

SIGNER_ROLE = "fogbook_signer"
"""The role of whoever signs checkpoints: it alone may add to trees, attestations, keys and signed checkpoints."""

REDIS_SCHEMES = ("redis", "rediss", "unix")


class Settings(BaseSettings):
    """Every setting is an environment variable, `FOGBOOK_...` unless another name is usual."""

    model_config = SettingsConfigDict(env_prefix="FOGBOOK_", env_file=".env", extra="ignore", frozen=True)

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

    @property
    def subject_folder(self) -> Path:
        return (self.subject_keys or self.home / "subjects").expanduser()

    @property
    def pepper_bytes(self) -> bytes:
        pepper = self.pepper.get_secret_value().encode()
        if len(pepper) < 16:
            raise SettingsIncomplete("FOGBOOK_PEPPER must be set, to at least 16 characters.")
        return pepper


class SettingsIncomplete(Exception):
    """A setting that this process needs is missing; the message says which."""
