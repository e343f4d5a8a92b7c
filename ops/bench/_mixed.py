"""The mixed workload: against plain transfers, its lag, and how punctual timers are meanwhile."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx

from commands._codec import encode_json
from ops.bench._economy import found_economy
from ops.bench._figures import Figures
from ops.bench._lag import following, lags_at
from ops.bench._measure import median_ratio, spread
from ops.bench._requests import MIX, principal, wallet
from ops.bench._rounds import GAPLESS, Side, note, take_turns
from ops.bench._stage import ZONE, BenchFailed, Stage

RATE = 300
PLACED_WITHIN_S = 3.0
"""A hold that is placed after its time would be refused."""


def mixed(stage: Stage, figures: Figures) -> None:
    """The mixed workload against plain transfers, in turns; then its lag at 300 commands a second."""
    api = stage.fogbook()
    found_economy(stage, ZONE)
    terms = {"mix": MIX, "devices": stage.scale.devices}
    sides = {"mixed": Side((api,), terms), "transfer": Side((api,))}
    take_turns(stage, sides, stage.scale.rounds, "Mixed commands over HTTP")
    figures.ratios["mixed_vs_transfer"] = median_ratio(sides["mixed"].rates, sides["transfer"].rates)
    note(figures, "mixed", sides["mixed"], GAPLESS)
    with following(stage) as poller:
        holds = place_holds(stage, api.port, stage.scale.lag_s * stage.scale.lag_rounds)
        stage.say(f"Commit-to-visible lag at {RATE} mixed commands/s.")
        lags, result = lags_at(stage, poller, RATE, stage.scale.lag_s * stage.scale.lag_rounds, **terms)
        figures.timers_late_ms = lateness(stage, holds)
    figures.lag_mixed_ms = spread(lags)
    figures.conditions["lag_mixed_commands_per_s"] = round(result.per_s, 1)
    figures.conditions["mix"] = MIX
    figures.conditions["devices"] = stage.scale.devices


def place_holds(stage: Stage, port: int, seconds: float) -> int:
    """Holds that expire one after the other during that time, which begins soon after; returns how many."""
    begin = datetime.now(UTC) + timedelta(seconds=PLACED_WITHIN_S)
    number = int(seconds * 10)
    lines = [
        encode_json(
            {
                "context": "ledger",
                "command": "place-hold",
                "key": f"expiring-{i}",
                "body": {
                    "hold": f"expiring-{i}",
                    "wallet": wallet(0, stage.principals),
                    "payee": principal(1, stage.principals),
                    "amount": "1",
                    "expires_at": (begin + timedelta(seconds=i / 10)).isoformat(),
                },
            }
        )
        for i in range(number)
    ]
    headers = {"authorization": f"Bearer {stage.keys[0]}", "content-type": "application/x-ndjson"}
    url = f"http://127.0.0.1:{port}/commands"
    answer = httpx.post(url, content=b"\n".join(lines), headers=headers, timeout=30, trust_env=False)
    if answer.status_code != 200 or answer.content.count(b'"status":200') != number:
        raise BenchFailed(f"holds were not placed: {answer.text[:300]}")
    time.sleep(max(0.0, (begin - datetime.now(UTC)).total_seconds() - 0.5))
    return number


LATE = """
SELECT extract(epoch FROM expired.recorded_at - (convert_from(placed.data, 'UTF8')::json ->> 'expires_at')::timestamptz)
       * 1000
FROM events expired JOIN events placed USING (zone, stream)
WHERE zone = %s AND expired.type = 'HoldExpired' AND placed.type = 'HoldPlaced'
"""


def lateness(stage: Stage, holds: int) -> dict[str, float]:
    """How long after their time the holds expired, in milliseconds; waits for them, so that the last ones count."""
    end = time.monotonic() + stage.patience_s(30.0)
    late: list[float] = []
    with stage.connect() as connection:
        while len(late) < holds:
            if time.monotonic() > end:
                raise BenchFailed(f"{holds - len(late)} of {holds} holds have not expired")
            time.sleep(0.1)
            late = [float(ms) for (ms,) in connection.execute(LATE, (ZONE,))]
    return spread(late)
