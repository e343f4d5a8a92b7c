"""Accounts on the screen: balances, holds, statements, supply and who holds it."""

from queries._console._panels import amount, chart, linked, page, rate, table, wallet

TRANSACTION = "/console/transaction?transaction={transaction}"

page(
    "accounts",
    "Accounts",
    table("supply", "Supply", "ledger/supply", "asset", amount("supply"), amount("minted"), amount("burned"), amount("cap"), "scale"),
    table("sums", "Trial balance", "ledger/trial-balance", about="the total of each asset is 0"),
    chart("volume", "Volume", "ledger/economics", "day", amount("volume"), form="bars"),
    table("accounts", "Accounts", "ledger/accounts", wallet("account"), "asset", "owner", "status", amount("posted"), amount("held"), amount("available"), filters=("asset",)),
    table("holders", "Who holds most", "ledger/holders", wallet("account"), amount("posted"), amount("held"), rate("share"), filters=("asset",)),
)

page(
    "account",
    "Account",
    table("balance", "Balance", "ledger/balance", "asset", amount("posted"), amount("held"), amount("available"), asked=("account",)),
    table("holds", "Holds", "ledger/holds", "hold", wallet("payee"), amount("amount"), amount("captured"), amount("remaining"), "purpose", "status", "expires_at", filters=("wallet", "payee", "status")),
    table(
        "statement", "Statement", "ledger/statement",
        "at", linked("transaction", TRANSACTION), wallet("counterparty"), "purpose", "reference", "memo", amount("amount"), amount("posted"), "asset",
        asked=("account",), filters=("asset", "since", "until"),
    ),
    table("rewards", "Rewards", "ledger/reward-history", "at", linked("transaction", TRANSACTION), "kind", "pool", amount("amount"), amount("total"), asked=("account",), filters=("kind",)),
    in_menu=False,
    asked=("account",),
)

page(
    "transaction",
    "Transaction",
    table("lines", "Lines", "ledger/transaction", "line", wallet("account"), wallet("counterparty"), amount("amount"), "asset", "purpose", "reference", "memo", "at", "reverses", "reversed_by", asked=("transaction",)),
    in_menu=False,
    asked=("transaction",),
)
