"""Commands that a principal signed, brought by somebody else: each has its one effect, and proves who wanted it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from commands._signed import MOST_BODY_BYTES, signed_from, verified
from domain.principals import P
from ops.app import make_app
from ops.problems import Problem
from ops.verify import Difference, verify
from tests.acceptance.api import Caller, Village, environment, make_zone, village
from tests.conftest import Database
from tests.integration.test_erasure import follow, tables_with
from tests.signers import SALT, Signer, hashed

Scenario = Callable[[Village], Coroutine[Any, Any, None]]
PAY = {"from": "wallet:ana", "to": "wallet:ben", "amount": "5"}


@pytest.fixture
def play(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    environment(monkeypatch, database, redis_url)

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with village(database, make_app) as v:
                await scenario(v)

        asyncio.run(main())

    return run


async def registered(v: Village, seed: int = 1) -> Signer:
    """Ana's key."""
    signer = Signer("ana", seed)
    made = signer.registration()
    await v.ana.ok("principals/register-signing-key", {"key": made.key, "proof": made.proof})
    return signer


def soon() -> int:
    return int(time.time()) + 60


async def bring(
    relay: Caller, signer: Signer, path: str, body: Any, key: str | None = None, **more: Any
) -> httpx.Response:
    """Somebody sends what the signer signed."""
    header = signer.header(path, body, **({"expires": soon()} | more))
    return await relay.send(path, body, fogbook_signed=header, **({"idempotency_key": key} if key else {}))


def flipped(signature: str) -> str:
    """Another one, in one bit."""
    return f"{int(signature[:2], 16) ^ 1:02x}{signature[2:]}"


def problem(response: httpx.Response, status: int, name: str) -> Any:
    body = response.json()
    assert (response.status_code, body.get("type")) == (status, f"/problems/{name}"), body
    return body


def effects(v: Village) -> int:
    """How many commands were signed and done."""
    with v.database.connect() as connection:
        row = connection.execute("SELECT count(*) FROM events WHERE type = 'CommandSigned'").fetchone()
    return int(row[0]) if row else 0


def differences(v: Village) -> list[Difference]:
    return verify(v.database.connect, None, lambda done, total: None, models=False).problems


def test_whoever_brings_a_signed_command_acts_for_the_signer_and_both_are_recorded(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        response = await bring(v.ben, ana, "ledger/transfer", PAY)
        answer = response.json()
        assert response.status_code == 200, answer
        assert [event["type"] for event in answer["events"]] == ["CommandSigned", "Debited", "Credited"]
        signed = answer["events"][0]
        assert signed["stream"] == "signed:ana"
        assert (signed["data"]["key"], signed["data"]["nonce"]) == (ana.key, 1)
        with v.database.connect() as connection:
            stored = "SELECT principal, act_as, request FROM commands ORDER BY number DESC LIMIT 1"
            principal, act_as, request = connection.execute(stored).fetchone() or ("", "", b"")
        assert (principal, act_as) == ("ben", "ana")
        assert json.loads(request)["signed"] == signed["data"]

    play(scenario)


def test_a_thousand_replays_have_no_effect(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        signed = ana.signed("ledger/transfer", PAY, expires=soon())
        line = {"context": "ledger", "command": "transfer", "body": PAY, "signed": signed}
        first = await v.ben.send(
            "ledger/transfer", PAY, fogbook_signed=json.dumps(signed), idempotency_key="1"
        )
        again = await v.ben.send(
            "ledger/transfer", PAY, fogbook_signed=json.dumps(signed), idempotency_key="1"
        )
        assert again.content == first.content
        assert again.headers["idempotency-hit"] == "true"
        position = v.counts()[0]
        carol = v.key("carol", "participant")
        for relay in (v.ben, carol, v.ana, v.admin):
            lines = "".join(
                json.dumps(line | {"key": f"again {n}".replace(" ", "-")}) + "\n" for n in range(250)
            )
            answers = await v.http.post(
                "/commands", content=lines, headers=relay.headers(content_type="application/x-ndjson")
            )
            said = [json.loads(each) for each in answers.text.splitlines()]
            assert len(said) == 250
            assert {(each["status"], each["body"]["type"]) for each in said} == {
                (409, "/problems/nonce-is-used")
            }
        assert v.counts()[0] == position
        assert effects(v) == 1
        assert differences(v) == []

    play(scenario)


def test_one_signed_command_sent_by_five_at_once_has_one_effect(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        header = ana.header("ledger/transfer", PAY, expires=soon())
        sent = [v.ben.send("ledger/transfer", PAY, fogbook_signed=header) for _ in range(5)]
        statuses = sorted(each.status_code for each in await asyncio.gather(*sent))
        assert statuses == [200, 409, 409, 409, 409]

    play(scenario)


def test_what_was_signed_is_what_counts(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        await v.ana.ok("ledger/open-wallet", {"wallet": "wallet:ana:more"})
        before = v.counts()
        said = ana.signed("ledger/transfer", PAY, expires=soon())
        other = Signer("ana", 2)
        for path, body, signed in (
            ("ledger/transfer", PAY | {"amount": "6"}, said),
            ("ledger/transfer", PAY | {"memo": ""}, said),
            ("ledger/burn", {"from": "wallet:ana", "amount": "5", "reason": ""}, said),
            ("ledger/transfer", PAY, said | {"nonce": 2}),
            ("ledger/transfer", PAY, said | {"expires": said["expires"] + 1}),
            ("ledger/transfer", PAY, said | {"principal": "ben"}),
            ("ledger/transfer", PAY, said | {"key": other.key}),
            ("ledger/transfer", PAY, said | {"signature": flipped(said["signature"])}),
            ("ledger/transfer", PAY, ana.signed("ledger/transfer", PAY, expires=soon(), zone="village")),
        ):
            response = await v.ben.send(path, body, fogbook_signed=json.dumps(signed))
            if path != "ledger/burn":
                assert problem(response, 422, "signature-is-wrong")["facts"]["statement"].startswith(
                    '{"body":{'
                )
            assert response.status_code in (404, 422)
        assert v.counts() == before

    play(scenario)


def test_the_order_of_members_and_how_a_relay_writes_them_does_not_matter(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        header = ana.header("ledger/transfer", PAY, expires=soon())
        body = b'{"to" : "wallet:b\\u0065n", "amount":"5",\n"from":"wallet:ana"}'
        assert (await v.ben.send("ledger/transfer", body, fogbook_signed=header)).status_code == 200

    play(scenario)


def test_a_command_that_has_expired_or_whose_key_is_revoked_is_refused(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana, stranger = await registered(v), Signer("ana", 9)
        late = await bring(v.ben, ana, "ledger/transfer", PAY, expires=int(time.time()) - 1)
        assert set(problem(late, 409, "signed-command-has-expired")["facts"]) == {"expires", "now"}
        far = await bring(v.ben, ana, "ledger/transfer", PAY, expires=soon() + P.most_ahead_s)
        problem(far, 409, "expiry-is-too-far-ahead")
        problem(await bring(v.ben, stranger, "ledger/transfer", PAY), 409, "signing-key-is-unknown")
        problem(
            await v.ana.send("principals/revoke-signing-key", {"key": ana.key}), 409, "signature-is-required"
        )
        await v.admin.ok("principals/revoke-signing-key", {"key": ana.key, "principal": "ana"})
        problem(await bring(v.ben, ana, "ledger/transfer", PAY), 409, "signing-key-is-unknown")

    play(scenario)


def test_each_line_of_a_batch_may_be_signed_by_somebody_else(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana, zoe = await registered(v), Signer("zoe", 4)
        caller, made = v.key("zoe", "participant"), zoe.registration()
        await caller.ok("principals/register-signing-key", {"key": made.key, "proof": made.proof})
        asked = [
            (ana, "transfer", PAY),
            (zoe, "open-wallet", {"wallet": "wallet:zoe"}),
            (None, "open-wallet", {"wallet": "wallet:ben:more"}),
            (ana, "transfer", PAY),
        ]
        lines = [
            {"context": "ledger", "command": name, "key": f"b{number}", "body": body}
            | ({"signed": who.signed(f"ledger/{name}", body, expires=soon())} if who else {})
            for number, (who, name, body) in enumerate(asked)
        ]
        headers = v.ben.headers(content_type="application/x-ndjson")
        content = "\n".join(map(json.dumps, lines))
        answers = await v.http.post("/commands", content=content, headers=headers)
        said = [json.loads(each) for each in answers.text.splitlines()]
        assert [each["status"] for each in said] == [200, 200, 200, 200], said
        streams = [each["body"]["events"][0]["stream"] for each in said]
        assert streams == ["signed:ana", "signed:zoe", "wallet:ben:more", "signed:ana"]

    play(scenario)


def test_a_dry_run_uses_nothing_up(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        before = v.counts()
        header = ana.header("ledger/transfer", PAY, expires=soon())
        for _ in range(2):
            tried = await v.ben.send("ledger/transfer?dry_run=true", PAY, fogbook_signed=header)
            assert tried.status_code == 200, tried.text
        assert v.counts() == before
        assert (await v.ben.send("ledger/transfer", PAY, fogbook_signed=header)).status_code == 200
        used = await v.ben.send("ledger/transfer?dry_run=true", PAY, fogbook_signed=header)
        problem(used, 409, "nonce-is-used")

    play(scenario)


def test_the_key_of_an_idempotent_command_is_bound_to_its_signature(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        assert (await bring(v.ben, ana, "ledger/transfer", PAY, "once")).status_code == 200
        problem(await bring(v.ben, ana, "ledger/transfer", PAY, "once"), 422, "idempotency-key-reused")

    play(scenario)


def test_nobody_acts_unsigned_for_one_who_signs_everything(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        response = await bring(v.ana, ana, "principals/require-signatures", {"on": True})
        assert response.status_code == 200, response.text
        problem(await v.ana.send("ledger/transfer", PAY), 409, "signature-is-required")
        acting = await v.admin.send("ledger/transfer", PAY, fogbook_act_as="ana")
        problem(acting, 409, "signature-is-required")
        assert (await bring(v.admin, ana, "ledger/transfer", PAY)).status_code == 200

    play(scenario)


def test_who_brings_a_command_gives_it_no_rights_of_his_own(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        mint = {"to": "wallet:ana", "amount": "5", "reason": "gift", "reference": "g1"}
        refused = await bring(v.admin, ana, "ledger/mint-tokens", mint)
        problem(refused, 403, "role-not-allowed")
        problem(await bring(v.auditor, ana, "ledger/transfer", PAY), 403, "role-not-allowed")
        nobody = Caller(v.http, "fog_00_00")
        problem(await bring(nobody, ana, "ledger/transfer", PAY), 401, "unauthenticated")
        # His own signed command is one of his role.
        admin = Signer("admin", 5)
        made = admin.registration()
        await v.admin.ok("principals/register-signing-key", {"key": made.key, "proof": made.proof})
        assert (await bring(v.admin, admin, "ledger/mint-tokens", mint)).status_code == 200

    play(scenario)


MALFORMED: list[Any] = [
    "",
    "[]",
    "{",
    "{}",
    '{"principal":"ana","principal":"ana"}',
    {"nonce": 0},
    {"nonce": 2**53},
    {"nonce": True},
    {"nonce": "1"},
    {"expires": -1},
    {"key": "AB" * 32},
    {"key": "ab" * 32 + "\n"},
    {"signature": "00"},
    {"principal": "Ana"},
    {"principal": ""},
    {"principal": "ana\n"},
    {"salt": "short"},
    {"more": 1},
]


def test_what_says_who_signed_is_checked(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        before = v.counts()
        said = ana.signed("ledger/transfer", PAY, expires=soon())
        for bad in MALFORMED:
            header = bad if isinstance(bad, str) else json.dumps(said | bad)
            response = await v.ben.send("ledger/transfer", PAY, fogbook_signed=header)
            assert response.status_code == 400, (bad, response.text)
            assert response.json()["type"] in ("/problems/malformed-signed", "/problems/malformed-body")
        line = {"context": "ledger", "command": "transfer", "body": PAY, "key": "k", "signed": [1]}
        headers = v.ben.headers(content_type="application/x-ndjson")
        answer = await v.http.post("/commands", content=json.dumps(line), headers=headers)
        assert answer.json()["body"]["type"] == "/problems/malformed-signed"
        headers |= {"fogbook-signed": json.dumps(said)}
        problem(await v.http.post("/commands", content="", headers=headers), 400, "malformed-signed")
        assert v.counts() == before

    play(scenario)


def test_a_signed_body_is_bounded(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        vouched = {"asset": "FOG", "amount": "1" + "0" * 37}
        body = {"dispute": "d", "to_payer": "1", "to_payee": "1", "more": [vouched] * 600}
        signed = signed_from(ana.signed("settlement/resolve-dispute", body, expires=soon()))
        with pytest.raises(Problem) as refused:
            verified(signed, "main", "settlement/resolve-dispute", body, ())
        assert (refused.value.status, refused.value.body["facts"]["limit"]) == (413, str(MOST_BODY_BYTES))

    assert MOST_BODY_BYTES * 2 <= 65_536
    play(scenario)


# Personal texts


WORDS = "Anastasia Quetzalcoatl of 4 Well Lane"
MEMO = PAY | {"memo": WORDS}


def test_personal_texts_are_signed_by_their_hashes_and_stored_sealed(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        response = await bring(v.ben, ana, "ledger/transfer", MEMO, "memo", personal=("memo",))
        assert response.status_code == 200, response.text
        stored = response.json()["events"][0]["data"]
        assert json.loads(stored["body"]) == PAY | {"memo": hashed(WORDS)}
        assert stored["salt"].startswith("enc:v1:")
        for secret in (WORDS, SALT):
            assert tables_with(v.database, secret) == []

    play(scenario)


def test_signatures_verify_as_before_once_their_author_is_erased(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        await bring(v.ben, ana, "ledger/transfer", MEMO, personal=("memo",))
        await bring(v.ben, ana, "principals/erase-subject", {"principal": "ana"})
        after = await bring(v.ben, ana, "ledger/transfer", MEMO, personal=("memo",))
        problem(after, 409, "subject-erased")
        assert (await bring(v.ben, ana, "ledger/transfer", PAY)).status_code == 200
        assert effects(v) == 3
        assert differences(v) == []

    play(scenario)


def test_a_personal_text_needs_a_salt_and_is_what_was_signed(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        plain = await bring(v.ben, ana, "ledger/transfer", MEMO)
        assert problem(plain, 422, "salt-missing")["facts"]["fields"] == ["memo"]
        header = ana.header("ledger/transfer", MEMO, expires=soon(), personal=("memo",))
        other = await v.ben.send("ledger/transfer", MEMO | {"memo": "else"}, fogbook_signed=header)
        problem(other, 422, "signature-is-wrong")

    play(scenario)


def test_the_same_personal_text_again_is_the_same_command(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        header = ana.header("ledger/transfer", MEMO, expires=soon(), personal=("memo",))
        first = await v.ben.send("ledger/transfer", MEMO, fogbook_signed=header, idempotency_key="memo")
        again = await v.ben.send("ledger/transfer", MEMO, fogbook_signed=header, idempotency_key="memo")
        assert again.content == first.content
        assert again.headers["idempotency-hit"] == "true"

    play(scenario)


def test_a_stranger_makes_no_keys_for_whom_he_names(play: Any) -> None:
    async def scenario(v: Village) -> None:
        stranger = Signer("zoe", 8)
        response = await bring(v.ben, stranger, "ledger/transfer", MEMO, personal=("memo",))
        problem(response, 409, "signing-key-is-unknown")

    play(scenario)


# Queries


def test_a_principal_sees_his_keys_and_how_far_his_nonces_are(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        await bring(v.ben, ana, "ledger/transfer", PAY, nonce=41)
        await asyncio.to_thread(follow, v.database)

        async def ask(query: str, caller: Caller) -> Any:
            answer = await v.http.get(f"/queries/principals/{query}", headers=caller.headers())
            assert answer.status_code == 200, answer.text
            return answer.json()["items"]

        (key,) = await ask("signing-keys", v.ana)
        assert (key["principal"], key["key"], key["revoked_at"]) == ("ana", ana.key, None)
        (signer,) = await ask("signer", v.ana)
        assert (signer["nonce"], signer["commands"], signer["required"]) == (41, 1, False)
        assert await ask("signing-keys", v.ben) == []
        assert len(await ask("signing-keys?subject=ana", v.auditor)) == 1
        revoke = {"key": ana.key, "principal": "ana"}
        await v.admin.ok("principals/revoke-signing-key", revoke)
        await asyncio.to_thread(follow, v.database)
        (key,) = await ask("signing-keys", v.ana)
        assert key["revoked_by"] == "admin"
        assert key["revoked_at"] is not None

    play(scenario)


def test_zones_know_nothing_of_each_others_keys(play: Any) -> None:
    async def scenario(v: Village) -> None:
        ana = await registered(v)
        await asyncio.to_thread(make_zone, v.database, "side")
        ben = v.key("ben", "participant", zones=("main", "side"))
        header = ana.header("ledger/open-wallet", {"wallet": "wallet:ana"}, expires=soon(), zone="side")
        body = {"wallet": "wallet:ana"}
        response = await ben.send("ledger/open-wallet", body, fogbook_signed=header, fogbook_zone="side")
        problem(response, 409, "signing-key-is-unknown")

    play(scenario)
