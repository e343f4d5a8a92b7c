"""A query: a name, the dataclass of its rows and a SELECT over `read.*` tables joined with `live`.

`live` stands for the live generation of the query's projection (`live.as_of` is the time of the last event that it
reflects). How a query is asked over HTTP is in queries/_http.py, its statements in queries/_sql.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a time that is left open."""
SEES_ALL = frozenset({"operator", "auditor"})
EVERYBODY = frozenset({"operator", "auditor", "participant", "provider", "worker"})


@dataclass(frozen=True, slots=True)
class NoParameters:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    context: str
    name: str
    row: type
    select: str
    projection: str
    key: tuple[str, ...]
    """The columns that order the items, and that pages continue after."""
    descending: bool
    parameters: type
    own: str
    """The parameter that names whose affair it is: an account or a principal. Empty means the caller's own;
    somebody else's is 404, except for those who see everything."""
    roles: frozenset[str]
    timeless: bool
    """False when the answer depends on the current time, so that it has no ETag."""
    single: bool
    """The query is about one thing: where there are no rows, there is no such thing (404)."""
    inputs: type
    """What the SELECT gives: the row, or what `derive` makes the row of."""
    derive: Callable[[Any, dict[str, Any]], Any] | None

    @property
    def path(self) -> str:
        return f"/queries/{self.context}/{self.name}"

    @property
    def scope(self) -> str:
        """What a key that is restricted to scopes needs one of: this, or `queries`."""
        return f"queries:{self.context}"


QUERIES: dict[str, Query] = {}


class Context:
    """The queries of one context."""

    def __init__(self, name: str) -> None:
        self.name = name.rpartition(".")[2]

    def get(
        self,
        name: str,
        row: type,
        select: str,
        *,
        key: tuple[str, ...],
        parameters: type = NoParameters,
        own: str = "",
        roles: frozenset[str] = EVERYBODY,
        descending: bool = False,
        timeless: bool = True,
        single: bool = False,
        projection: str = "",
        inputs: type | None = None,
        derive: Callable[[Any, dict[str, Any]], Any] | None = None,
    ) -> None:
        """Declare a query. `row` is a dataclass whose fields are the SELECT's columns, by name.

        Where a row follows from a rule of the domain, the SELECT's columns are the fields of `inputs`, and `derive`
        makes a row of these and of the parameters, or none: a pure function, so that no formula is written twice.

        Beside its parameters a SELECT may use `zone`, `principal` and `sees_all` (the caller is an operator or
        auditor).
        """
        query = Query(
            self.name,
            name,
            row,
            select,
            projection or self.name,
            key,
            descending,
            parameters,
            own,
            roles,
            timeless,
            single,
            inputs or row,
            derive,
        )
        QUERIES[query.path] = query
