"""Harvest on the screen: who lends what now, what came of it, and what it paid."""

from queries._console._panels import amount, chart, page, rate, table, wallet

page(
    "harvest",
    "Harvest",
    chart("rewards", "Rewards", "analytics/harvest", "start", amount("reward"), form="bars", fixed={"size": "day"}),
    chart("running", "Time lent", "analytics/harvest", "start", "running_ms", form="bars", fixed={"size": "day"}),
    table("live", "Live sessions", "harvest/live-sessions", "session", "device", wallet("owner"), "region", "status", "started_at", "ends_at", "ends_because", "contributions", "pending", amount("reward"), filters=("owner", "device", "region")),
    table("waiting", "Contributions that wait for a quorum", "harvest/pending-contributions", "recorded_at", "session", "seq", "device", wallet("owner"), "region", "quorum", "results", filters=("region", "device")),
    table("contributions", "Contributions", "harvest/contributions", "recorded_at", "session", "seq", "device", wallet("owner"), "status", "tasks", rate("score"), amount("reward"), "paid_at", filters=("owner", "device", "session", "status", "since", "until")),
    table("regions", "Regions", "harvest/regions"),
    table("harvesters", "Harvesters", "harvest/harvesters", "device", wallet("owner"), "region", "session", "sessions", "paid", "rejected", amount("reward"), "suspended", filters=("owner", "device", "region")),
    table("devices", "Devices", "devices/devices", filters=("owner", "region", "type", "status", "service")),
    table("stops", "Why sessions stopped", "harvest/stop-reasons", "reason", "sessions", "running_ms"),
)
