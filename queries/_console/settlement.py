"""Settlement on the screen: windows, who owes whom, and transfers between zones."""

from queries._console._panels import amount, chart, linked, matrix, page, table, wallet

WINDOW = "/console/window?window={window}"

page(
    "settlement",
    "Settlement",
    chart("settled", "Settled", "analytics/settlement", "start", amount("settled_amount"), form="bars", fixed={"size": "day"}),
    table("ageing", "How old the open obligations are", "analytics/ageing", "asset", "age_class", "number", amount("amount"), "oldest_at"),
    matrix("positions", "Net positions", "settlement/net-positions", "party", "window", amount("net")),
    table("windows", "Windows", "settlement/windows", linked("window", WINDOW), "status", "series", "opened_at", "closes_at", "obligations", "taken_over", "left_it", "lapsed", filters=("status",)),
    table("obligations", "Obligations", "settlement/obligations", "recorded_at", "obligation", wallet("debtor"), wallet("creditor"), amount("amount"), "asset", "status", linked("window", WINDOW), "memo", filters=("party", "status", "window")),
    table("transfers", "Transfers between zones", "settlement/transfers", "begun_at", "direction", "peer", "sequence", amount("amount"), "asset", "sender", "recipient", "status", "timeout", "settled_at", filters=("owner", "peer", "direction", "status", "asset")),
    table("stuck", "Transfers that are stuck", "settlement/stuck-transfers", "begun_at", "peer", "sequence", amount("amount"), "asset", "sender", "recipient", "age_s", "timed_out", "attempts", "problem", filters=("owner", "peer", "older_than_s")),
    table("bridges", "What bridges owe", "settlement/bridge-liability", "peer", "asset", amount("escrowed"), amount("vouchers"), amount("in_flight"), "transfers_in_flight"),
    table("disputes", "Disputes", "settlement/disputes", "opened_at", "dispute", wallet("customer"), wallet("provider"), amount("amount"), "status", "reason", "decision", filters=("party", "contract", "status")),
)

page(
    "window",
    "Settlement window",
    table("terms", "What it is", "settlement/windows", asked=("window",)),
    matrix("net", "Net positions", "settlement/net-positions", "party", "asset", amount("net"), asked=("window",)),
    table("obligations", "Obligations", "settlement/obligations", "obligation", wallet("debtor"), wallet("creditor"), amount("amount"), "asset", "status", "memo", asked=("window",)),
    table("departures", "Who left it, and why", "settlement/departures", "at", wallet("party"), "reason", "asset", amount("needed"), amount("available"), asked=("window",)),
    in_menu=False,
    asked=("window",),
)
