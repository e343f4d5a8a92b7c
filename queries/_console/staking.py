"""Staking on the screen: validators and what they earn, positions, and when tokens come free."""

from queries._console._panels import Column, amount, chart, linked, page, rate, table, wallet

VALIDATOR = "/console/validator?validator={validator}"

page(
    "staking",
    "Staking",
    chart("ratio", "Bonded tokens", "analytics/staking", "start", amount("bonded"), fixed={"size": "hour", "buckets": "168"}),
    chart("apr", "Yearly rate of rewards", "analytics/staking", "start", rate("apr"), fixed={"size": "day", "buckets": "30"}),
    table(
        "validators", "Validators", "staking/validators",
        linked("validator", VALIDATOR), wallet("operator"), amount("tokens"), rate("share"), rate("commission"),
        rate("apr"), rate("uptime"), "delegators", "jailed", "jailed_until", "tombstoned", amount("slashed"),
        filters=("validator",),
    ),
    table(
        "calendar", "Unbonding calendar", "staking/unbonding-calendar",
        "matures_at", wallet("delegator"), linked("validator", VALIDATOR), "entry", amount("balance"), amount("slashed"), "status",
        filters=("delegator", "validator", "status", "since", "until"),
    ),
    table(
        "positions", "Positions", "staking/delegators",
        linked("validator", VALIDATOR), wallet("delegator"), amount("tokens"), amount("pending"), amount("settled"),
        amount("compounded"), "auto_compound", "redelegated_until",
        filters=("validator",),
    ),
    table("leaders", "Who bonds most", "staking/leaderboard", "rank", wallet("delegator"), amount("tokens"), rate("share"), "validators"),
    table("slashes", "Slashes", "staking/slash-log", "at", linked("validator", VALIDATOR), "kind", amount("tokens"), "victims", "status", "evidence_id", filters=("validator",)),
)

page(
    "validator",
    "Validator",
    table("terms", "What it is", "staking/validators", asked=("validator",)),
    chart("apr", "Yearly rate of rewards", "staking/apr-history", "day", rate("apr"), asked=("validator",)),
    table("delegators", "Delegators", "staking/delegators", wallet("delegator"), amount("tokens"), amount("pending"), "lots", asked=("validator",)),
    table("unbonding", "Unbonding", "staking/unbonding-calendar", "matures_at", wallet("delegator"), amount("balance"), "status", asked=("validator",)),
    table("jail", "Terms in jail", "staking/jail-log", "begun_at", "ended_at", "reason", asked=("validator",)),
    table("slashes", "Slashes", "staking/slash-log", "at", "kind", amount("tokens"), "victims", "status", Column("evidence_id"), asked=("validator",)),
    in_menu=False,
    asked=("validator",),
)
