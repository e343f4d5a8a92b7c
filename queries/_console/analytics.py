"""The overview: what needs attention, and what the economy comes to."""

from queries._console._panels import amount, chart, figures, page, rate, table

page(
    "overview",
    "Overview",
    figures(
        "economy", "The economy", "analytics/overview",
        amount("supply"), amount("staked"), rate("staking_ratio", "of it staked"), "devices", "devices_online", "sessions",
        rate("utilisation", "units in use"), "open_requests", "contracts_active", "contracts_24h", amount("turnover_24h"),
        amount("volume_24h"), rate("attainment_24h", "service levels kept"), amount("harvest_payout_24h"), "open_obligations",
    ),
    table("stuck", "Transfers that are stuck", "settlement/stuck-transfers", "peer", "sequence", amount("amount"), "asset", "age_s", "problem", limit=5),
    chart("volume", "Volume", "analytics/economy", "start", amount("volume"), form="bars", fixed={"size": "hour", "buckets": "48"}),
    table("refused", "Refused, by rule", "analytics/rejections", "start", "rule", "refused", rate("rate"), limit=10, fixed={"size": "day", "buckets": "7"}),
    table("sums", "Trial balance", "ledger/trial-balance", about="the total of each asset is 0"),
)
