"""The ledger's queries beside logs of several lengths, over HTTP, each size in its turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from random import Random

import httpx

from ops.bench._figures import Figures
from ops.bench._history import wallets_of
from ops.bench._measure import quantile
from ops.bench._requests import wallet
from ops.bench._stage import CLI, BenchFailed, Stage

QUESTIONS = {
    "balance": "/queries/ledger/balance?account={}",
    "statement": "/queries/ledger/statement?account={}&limit=50",
}
WARM_UP = 20


def queries(stage: Stage, figures: Figures, stages: Mapping[str, Stage]) -> None:
    """A balance and a page of a statement: of the wallets that commands go to, and of any."""
    argv = [*CLI, "serve", "queries", "--home", str(stage.folder / "fogbook"), "--port"]
    with ExitStack() as undo:
        apps = {label: own.start("queries", argv, {}) for label, own in stages.items()}
        for app in apps.values():
            undo.callback(app.stop)
        clients = {
            label: undo.enter_context(
                httpx.Client(base_url=f"http://127.0.0.1:{app.ready().port}", timeout=30, trust_env=False)
            )
            for label, app in apps.items()
        }
        stage.say("Growth: queries.")
        for label, samples in _asked(stage, clients).items():
            for name, took_ms in samples.items():
                for short, q in (("p50", 0.5), ("p99", 0.99)):
                    figures.put_growth(f"{name}_{short}_ms", label, quantile(sorted(took_ms), q))


def _asked(stage: Stage, clients: Mapping[str, httpx.Client]) -> dict[str, dict[str, list[float]]]:
    choose = Random(stage.seed)
    took: dict[str, dict[str, list[float]]] = {label: {} for label in clients}
    for number in range(-WARM_UP, stage.scale.growth.queries):
        for label, client in clients.items():
            for whose, wallets in (("", stage.scale.wallets), ("_of_any", wallets_of(int(label)))):
                of = choose.randrange(wallets)
                headers = {"authorization": f"Bearer {stage.keys[of % stage.principals]}"}
                for name, path in QUESTIONS.items():
                    begun = time.perf_counter()
                    answer = client.get(path.format(wallet(of, stage.principals)), headers=headers)
                    spent_ms = 1000 * (time.perf_counter() - begun)
                    if answer.status_code != 200 or not answer.json()["items"]:
                        raise BenchFailed(f"a query found nothing: {answer.text[:300]}")
                    if number >= 0:
                        took[label].setdefault(f"{name}{whose}", []).append(spent_ms)
    return took
