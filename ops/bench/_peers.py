"""Transfers over HTTP against what a user would pick instead: libraries for event sourcing, and a message store."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg

from ops.bench._figures import Figures
from ops.bench._measure import median_ratio
from ops.bench._node import NodeMissing, node, node_folder, packages
from ops.bench._rounds import GAPLESS, Side, note, take_turns
from ops.bench._stage import Stage, make_database

ORDERING = {
    "transfer": GAPLESS,
    "library_tuned": "in commit order by a lock on the table; each aggregate by itself is checked",
    "library_tuned_unordered": "of each aggregate; whoever follows all of them can miss some",
    "emmett": "of each stream; debit and credit are two transactions",
    "message_db": "in commit order by a lock on the category; nothing is decided or checked",
}


def peers(stage: Stage, figures: Figures) -> None:
    """POST /commands/ledger/transfer against the tuned library, emmett behind express, and message-db."""
    wallets = {"BENCH_WALLETS": str(stage.scale.wallets), "BENCH_PRINCIPALS": str(stage.principals)}
    for name, functions in (("library_tuned", "n"), ("library_tuned_unordered", "y")):
        library = make_database(stage, f"bench_{name}") | wallets
        library |= {"PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_ENABLE_DB_FUNCTIONS": functions}
        stage.start_peer(name, "ops.bench.peers.library_tuned:app", **library)
    try:
        _start_those_of_npm(stage, wallets)
    except NodeMissing as missing:
        figures.conditions["peers_without_node"] = str(missing)
    stage.fogbook()
    sides = {name: Side((stage.running[name],)) for name in ORDERING if name in stage.running}
    take_turns(stage, sides, stage.scale.rounds, "Transfers by peers")
    for name, side in sides.items():
        if name != "transfer":
            note(figures, name, side, ORDERING[name])
            figures.ratios[f"transfer_vs_{name}"] = median_ratio(sides["transfer"].rates, side.rates)
            stage.running.pop(name).stop()
        else:  # Its rates in these rounds, beside those of the part `transfer`.
            note(figures, "transfer_beside_peers", side, ORDERING[name])
    figures.conditions["peers_events_a_wallet"] = {
        name: round(2 * sum(round.sent for round in side.rounds) / stage.scale.wallets, 1)
        for name, side in sides.items()
    }


def _start_those_of_npm(stage: Stage, wallets: dict[str, str]) -> None:
    folder = node_folder(stage.folder, stage.say)
    make_database(stage, "bench_emmett")
    emmett = {"EMMETT_URL": database_url(stage, "bench_emmett"), "NODE_ENV": "production"}
    stage.start("emmett", [node(), str(folder / "app.mjs")], emmett | wallets)
    stage.start_peer("message_db", "ops.bench.peers.message_db:app", MESSAGE_DB_URL=message_db(stage))


def database_url(stage: Stage, name: str) -> str:
    return urlsplit(stage.servers.database_url)._replace(path=f"/{name}").geturl()


MESSAGE_DB = (
    *("roles/message-store", "schema/message-store", "types/message", "tables/messages"),
    *(
        f"functions/{name}"
        for name in ("hash-64", "acquire-lock", "category", "is-category", "id", "cardinal-id")
    ),
    *("functions/message-store-version", "functions/stream-version", "functions/write-message"),
    *("indexes/messages-id", "indexes/messages-stream", "indexes/messages-category"),
)
"""What writing needs, in its installer's order. pgcrypto is not among it: PostgreSQL's own functions suffice."""


def message_db(stage: Stage) -> str:
    """A database with message-db in it; returns its URL. Its packages must be installed."""
    name = "bench_message_db"
    with stage.superuser() as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return database_url(stage, name)
    make_database(stage, name)
    superuser = urlsplit(stage.servers.superuser_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET search_path TO message_store, public")
        connection.execute("SET search_path TO message_store, public")
        for script in MESSAGE_DB:
            path = packages() / "@eventide" / "message-db" / "database" / f"{script}.sql"
            connection.execute(path.read_bytes())
        connection.execute("GRANT USAGE ON SCHEMA message_store TO fogbook")
        connection.execute("GRANT SELECT, INSERT ON messages TO fogbook")
        connection.execute("GRANT USAGE ON SEQUENCE messages_global_position_seq TO fogbook")
    return database_url(stage, name)
