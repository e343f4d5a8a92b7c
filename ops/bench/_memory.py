"""Memory: a fresh API process after transfers all over a zone of many wallets."""

from __future__ import annotations

from ops.bench._figures import Figures
from ops.bench._measure import rss_mib
from ops.bench._stage import Stage, found_zone


def memory(stage: Stage, figures: Figures) -> None:
    """Resident memory of a fresh API process after transfers all over a zone of many wallets."""
    zone, wallets = "many", stage.scale.streams // (5 if stage.late(0.85) else 1)
    stage.say(f"Memory: opening {wallets} wallets.")
    found_zone(stage, zone, wallets)
    if "transfer" in stage.running:
        stage.running.pop("transfer").stop()
    api = stage.fogbook().ready()
    stage.say("Memory: transfers between all of them.")
    terms = {"zone": zone, "wallets": wallets, "pairs": max(8_192, min(wallets, 200_000))}
    result = stage.load.run(stage.round(api, seconds=stage.scale.memory_s, **terms))
    figures.memory_mib["transfer_over_all_streams"] = round(rss_mib(api.pid), 1)
    figures.conditions |= {"memory_streams": wallets, "memory_transfers": result.count}
    figures.per_s["transfer_over_all_streams"] = round(result.per_s, 1)
