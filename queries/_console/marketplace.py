"""The market on the screen: prices, what is in use, supply and demand, offerings, and a contract's life."""

from queries._console._panels import amount, chart, linked, page, rate, table, wallet

CONTRACT = "/console/contract?contract={contract}"
LANE = ("service_type", "region", "tier")

page(
    "market",
    "Market",
    chart("prices", "Price of a unit for an hour", "analytics/market", "start", amount("open"), amount("high"), amount("low"), amount("close"), fixed={"by": "all", "buckets": "168"}),
    chart("utilisation", "Units in use", "analytics/utilisation", "start", rate("utilisation"), fixed={"by": "all", "buckets": "168"}),
    table("lanes", "Supply and demand", "marketplace/lanes", *LANE, "listed", "supply", "demand", rate("market"), amount("floor"), amount("ceiling"), filters=LANE),
    table(
        "offerings", "Offerings", "marketplace/search",
        "offering", wallet("provider"), *LANE, "pricing", "cpu_millicores", "memory_mb", "gpu", "capacity", "free", amount("unit_hour"), rate("score"),
        filters=(*LANE, "provider", "pricing", "units", "price_cap", "min_score"),
    ),
    table("requests", "Open requests", "marketplace/open-requests", "request", wallet("customer"), "mode", *LANE, "units", "minutes", amount("price_cap"), "bids", "expires_at", filters=(*LANE, "mode")),
    table("demand", "Demand that found nothing", "marketplace/unmatched-demand", filters=LANE),
    table(
        "contracts", "Contracts", "marketplace/contracts",
        linked("contract", CONTRACT), "opened_at", wallet("customer"), wallet("provider"), *LANE, "status", "units", "minutes", amount("price"), amount("charged"), amount("remaining"), "in_dispute",
        filters=("party", "side", "status", "offering"),
    ),
    table("service", "Service levels", "marketplace/scorecards", wallet("provider"), "service_type", "contracts", "windows", "missed", "excused", rate("attainment"), "breaches", amount("penalties"), "rating", filters=("provider", "service_type")),
)

page(
    "contract",
    "Contract",
    table("terms", "Terms", "marketplace/contract", asked=("contract",)),
    table("periods", "Periods", "marketplace/periods", "period", "begins_at", "ends_at", "settlement", amount("charge"), amount("penalty"), amount("fee"), amount("paid"), amount("unpaid"), "settled_at", asked=("contract",)),
    table("windows", "Service levels, window by window", "marketplace/windows", "window", "begins_at", "p95_ms", rate("uptime_bp", "uptime"), rate("errors_bp", "errors"), "missed", "excused", "reported_at", asked=("contract",)),
    in_menu=False,
    asked=("contract",),
)
