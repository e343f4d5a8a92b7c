"""Names and keys of logs that nobody can take for those of others."""

from __future__ import annotations

import asyncio

import pytest

from commands._codec import ZONE
from commands._recorder import FogbookFactory
from commands._signatures import log_key
from ops.zones import ZoneRefused, ensure_zone
from projections._notes import open_checkpoint, parse_key
from projections._transparency import EVENTS, extend_and_sign
from tests.conftest import Database, Fogbook
from tests.integration.test_signing_cli import refused
from tests.signing import ORIGIN, SECRET
from tests.support import economy


def test_no_zone_is_named_as_second_logs_are(database: Database, fogbook: Fogbook) -> None:
    assert not ZONE.match("fates")
    assert all(map(ZONE.match, ("fate", "fates2", "fates.a", "my-fates")))
    with pytest.raises(ZoneRefused, match="No zone may be called fates"):
        ensure_zone(database.url, "fates")
    refused(fogbook("zones", "create", "fates"), "No zone may be called fates")
    with pytest.raises(OSError, match="no name of a zone"):
        FogbookFactory({"DATABASE_URL": database.url, "FOGBOOK_ZONE": "fates"})
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM heads").fetchone() == (0,)


def test_a_key_that_somebody_put_into_the_table_is_not_shown_as_ours(database: Database) -> None:
    async def scenario() -> None:
        async with economy(database) as village:
            with database.signer() as connection:
                note = extend_and_sign(connection, SECRET, ORIGIN, village.zone)[EVENTS].note
            theirs = log_key(b"the secret of somebody else", village.zone, 2)
            with database.superuser() as owner:
                owner.execute(
                    "INSERT INTO signing_keys (zone, serial, public_key) VALUES (%s, 2, %s)",
                    (village.zone, theirs.public_key().public_bytes_raw()),
                )
            keys = (await village.get("/history/keys")).json()["keys"]
            assert [(key["log"], key["serial"]) for key in keys] == [("events", 1), ("fates", 1)]
            assert open_checkpoint(note, [parse_key(keys[0]["vkey"])]).origin == f"{ORIGIN}/{village.zone}"

    asyncio.run(scenario())
