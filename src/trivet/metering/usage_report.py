"""Usage by any of its dimensions, read from the records."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, case, func, literal_column, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from trivet.domain.errors import RequestMalformed
from trivet.domain.scopes import Scope
from trivet.metering.attempt_places import PLACES
from trivet.storage.schema import outcomes

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
WEEK_NS = 7 * DAY_NS
_SUNDAYS_NS = 3 * DAY_NS
"""1970 began on a Thursday, three days after a Monday."""


class month_of(FunctionElement[str]):  # noqa: N801 - it is written like a function
    """The month of an instant in nanoseconds, such as 2026-11, in UTC."""

    name = "month_of"
    type = Text()
    inherit_cache = True


@compiles(month_of, "sqlite")
def _month_in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"strftime('%Y-%m', ({compiler.process(element.clauses, **options)}) / 1000000000, 'unixepoch')"


@compiles(month_of, "postgresql")
def _month_in_postgres(element: Any, compiler: Any, **options: Any) -> str:
    instant = f"to_timestamp(({compiler.process(element.clauses, **options)}) / 1000000000)"
    return f"to_char({instant} AT TIME ZONE 'UTC', 'YYYY-MM')"


class team_of(FunctionElement[str]):  # noqa: N801
    """The first two parts of a scope, or as many as it has."""

    name = "team_of"
    type = Text()
    inherit_cache = True


class user_of(FunctionElement[str]):  # noqa: N801
    """The first three parts of a scope, or as many as it has."""

    name = "user_of"
    type = Text()
    inherit_cache = True


_PARTS: dict[type[FunctionElement[str]], int] = {team_of: 2, user_of: 3}


@compiles(team_of, "sqlite")
@compiles(user_of, "sqlite")
def _head_in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    dotted = f"({compiler.process(element.clauses, **options)} || '.')"
    dot = f"instr({dotted}, '.')"
    for _ in range(_PARTS[type(element)] - 1):
        # Where there is no further dot, instr is 0 and the last one stays.
        dot = f"({dot} + instr(substr({dotted}, {dot} + 1), '.'))"
    return f"substr({dotted}, 1, {dot} - 1)"


@compiles(team_of, "postgresql")
@compiles(user_of, "postgresql")
def _head_in_postgres(element: Any, compiler: Any, **options: Any) -> str:
    parts = f"string_to_array({compiler.process(element.clauses, **options)}, '.')"
    return f"array_to_string(({parts})[1:{_PARTS[type(element)]}], '.')"


_OF_REQUEST: dict[str, ColumnElement[Any]] = {
    "tier": outcomes.c.tier,
    "deployment": outcomes.c.deployment,
    "model": outcomes.c.model,
    "task_type": outcomes.c.task_type,
    "worker": outcomes.c.worker,
    "scope": outcomes.c.scope,
    "policy": outcomes.c.policy,
    "key": outcomes.c.key_id,
    "hour": outcomes.c.at_ns - outcomes.c.at_ns % literal_column(str(HOUR_NS)),
    "week": outcomes.c.at_ns
    - (outcomes.c.at_ns + literal_column(str(_SUNDAYS_NS))) % literal_column(str(WEEK_NS)),
    "month": month_of(outcomes.c.at_ns),
    "organisation": outcomes.c.organisation,
    "team": team_of(outcomes.c.scope),
    "user": user_of(outcomes.c.scope),
    "task": outcomes.c.task_id,
    "session": outcomes.c.session,
    "day": outcomes.c.at_ns - outcomes.c.at_ns % literal_column(str(DAY_NS)),
}
DIMENSIONS = tuple(_OF_REQUEST)
STATUSES = ("ok", "cut", "failed", "refused", "cancelled")
_NOTHING: dict[str, Any] = {
    "requests": 0,
    **dict.fromkeys(STATUSES, 0),
    "fallbacks": 0,
    "cached": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "weighted_tokens": 0,
    "usd_micros": 0,
    "device_s": 0.0,
    "latency_p50_ms": None,
    "latency_mean_ms": None,
}


def ended_in(since_ns: int, until_ns: int, scope: Scope | None) -> ColumnElement[bool]:
    """Select requests that ended in [since, until), of a scope and all below it (None: of all)."""
    in_range = and_(outcomes.c.at_ns >= since_ns, outcomes.c.at_ns < until_ns)
    if scope is None:
        return in_range
    below = outcomes.c.scope.startswith(f"{scope}.", autoescape=True)
    return and_(in_range, or_(outcomes.c.scope == scope, below))


def usage_rows(
    connection: Connection, group_by: Sequence[str], where: ColumnElement[bool]
) -> list[dict[str, Any]]:
    """Return one row per group that occurs, in order of the groups; exactly one row without grouping.

    Raises:
        RequestMalformed: a dimension is unknown.
    """
    unknown = [name for name in group_by if name not in DIMENSIONS]
    if unknown:
        raise RequestMalformed(
            f"Usage cannot be grouped by {unknown[0][:40]!r}.",
            hint=f"Group by any of {', '.join(DIMENSIONS)}.",
            param="by",
        )
    names = list(dict.fromkeys(group_by))
    groups: dict[tuple[Any, ...], dict[str, Any]] = {} if names else {(): dict(_NOTHING)}
    for found in (
        _totals(connection, names, where),
        _device_seconds(connection, names, where),
        _latencies(connection, names, where),
    ):
        for key, figures in found.items():
            groups.setdefault(key, dict(_NOTHING)).update(figures)
    # None sorts before every name.
    ordered = sorted(groups, key=lambda key: [(value is not None, value) for value in key])
    return [
        {**{name: _shown(name, value) for name, value in zip(names, key, strict=True)}, **groups[key]}
        for key in ordered
    ]


Found = dict[tuple[Any, ...], dict[str, Any]]


def _totals(connection: Connection, names: list[str], where: ColumnElement[bool]) -> Found:
    dimensions = [_OF_REQUEST[name] for name in names]
    figures = {
        "requests": func.count(),
        **{status: func.count(case((outcomes.c.status == status, 1))) for status in STATUSES},
        "fallbacks": func.coalesce(func.sum(outcomes.c.fallbacks), 0),
        "cached": func.count(outcomes.c.saved_device_ns),
        "prompt_tokens": func.coalesce(func.sum(outcomes.c.prompt_tokens), 0),
        "completion_tokens": func.coalesce(func.sum(outcomes.c.completion_tokens), 0),
        "weighted_tokens": func.coalesce(func.sum(outcomes.c.weighted_tokens), 0),
        "usd_micros": func.coalesce(func.sum(outcomes.c.usd_micros), 0),
    }
    rows = connection.execute(select(*dimensions, *figures.values()).where(where).group_by(*dimensions))
    width = len(dimensions)
    return {
        tuple(row[:width]): {name: int(value) for name, value in zip(figures, row[width:], strict=True)}
        for row in rows
    }


def _device_seconds(connection: Connection, names: list[str], where: ColumnElement[bool]) -> Found:
    """Return device time where it was spent: a failed attempt's is not where its request was served."""
    spent_ns: Counter[tuple[Any, ...]] = Counter()
    for place in PLACES:
        of_attempt = {"tier": place.tier, "deployment": place.deployment, "model": place.model}
        dimensions = [of_attempt.get(name, _OF_REQUEST[name]) for name in names]
        for row in connection.execute(
            select(*dimensions, func.coalesce(func.sum(place.device_ns), 0))
            .select_from(place.joined)
            .where(where, place.is_told)
            .group_by(*dimensions)
        ):
            spent_ns[tuple(row[:-1])] += int(row[-1])
    return {key: {"device_s": round(ns / 1e9, 6)} for key, ns in spent_ns.items()}


def _latencies(connection: Connection, names: list[str], where: ColumnElement[bool]) -> Found:
    """Return median and mean latency of the requests that ended well; the median of two is their mean."""
    dimensions = [_OF_REQUEST[name].label(f"d{index}") for index, name in enumerate(names)]
    partition = [_OF_REQUEST[name] for name in names] or None
    ranked = (
        select(
            *dimensions,
            outcomes.c.latency_ms.label("latency_ms"),
            func.row_number().over(partition_by=partition, order_by=outcomes.c.latency_ms).label("place"),
            func.count().over(partition_by=partition).label("places"),
        )
        .where(where, outcomes.c.status == "ok", outcomes.c.latency_ms.is_not(None))
        .subquery()
    )
    # Of n values the middle ones are those at places p with n <= 2p <= n + 2.
    twice = ranked.c.place * 2
    middle = and_(twice >= ranked.c.places, twice <= ranked.c.places + 2)
    keys = [ranked.c[f"d{index}"] for index in range(len(names))]
    median, mean = func.avg(case((middle, ranked.c.latency_ms))), func.avg(ranked.c.latency_ms)
    rows = connection.execute(select(*keys, median, mean).group_by(*keys))
    return {
        tuple(row[:-2]): {"latency_p50_ms": round(row[-2], 3), "latency_mean_ms": round(row[-1], 3)}
        for row in rows
        if row[-1] is not None
    }


def _shown(name: str, value: Any) -> Any:
    if name == "hour":
        return datetime.fromtimestamp(value // 1_000_000_000, UTC).isoformat()
    if name in ("day", "week"):
        return datetime.fromtimestamp(value // 1_000_000_000, UTC).date().isoformat()
    return value
