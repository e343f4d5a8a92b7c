"""Settings, read from the environment once, at the root of a process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

APP_ROLE = "fogbook_app"
"""The database role that Fogbook works in: it may append events, never change or remove them."""


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
    log_level: str = "info"

    @property
    def pepper_bytes(self) -> bytes:
        pepper = self.pepper.get_secret_value().encode()
        if len(pepper) < 16:
            raise SettingsIncomplete("FOGBOOK_PEPPER must be set, to at least 16 characters.")
        return pepper


class SettingsIncomplete(Exception):
    """A setting that this process needs is missing; the message says which."""
