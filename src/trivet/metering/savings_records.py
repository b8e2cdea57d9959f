"""The figures of a savings report, read from the records."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, and_, cast, func, select

from trivet.domain.tiers import is_gpu
from trivet.metering.attempt_places import PLACES, Place
from trivet.metering.baseline import FitSums
from trivet.metering.device_clock import MINUTE_NS
from trivet.metering.interval_union import union_by_device
from trivet.metering.savings import Unit, Work
from trivet.metering.usage_report import DAY_NS
from trivet.storage.schema import device_minutes, outcomes

_DELIVERED = ("ok", "cut", "cancelled")


@dataclass(frozen=True, slots=True)
class Range:
    """[since, until) in epoch nanoseconds, on whole minutes, because busy time is kept by the minute."""

    since_ns: int
    until_ns: int

    @classmethod
    def around(cls, since_ns: int, until_ns: int) -> "Range":
        """Round outward to whole minutes."""
        return cls(since_ns // MINUTE_NS * MINUTE_NS, -(-until_ns // MINUTE_NS) * MINUTE_NS)


def busy_by_device(connection: Connection, within: Range) -> dict[str, int]:
    """Return each device's busy nanoseconds by the device clock."""
    rows = connection.execute(
        select(device_minutes.c.device, func.sum(device_minutes.c.busy_ns))
        .where(
            device_minutes.c.minute >= within.since_ns // MINUTE_NS,
            device_minutes.c.minute < within.until_ns // MINUTE_NS,
        )
        .group_by(device_minutes.c.device)
    )
    return {device: int(busy_ns) for device, busy_ns in rows}


def union_of_attempts(connection: Connection, within: Range) -> dict[str, int]:
    """Return each device's busy nanoseconds as the union of its attempts' intervals."""

    def intervals(place: Place) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        rows = connection.execute(
            select(place.dispatched_ns, place.ended_ns, place.devices)
            .select_from(place.joined)
            .where(
                place.devices != "",
                # No request lasts a day; the bounds keep the scan to a range of the index of outcomes.
                outcomes.c.at_ns >= within.since_ns,
                outcomes.c.at_ns < within.until_ns + DAY_NS,
                place.dispatched_ns < within.until_ns,
                place.ended_ns > within.since_ns,
            )
            .order_by(place.dispatched_ns)
        )
        for start_ns, end_ns, devices in rows:
            yield start_ns, end_ns, tuple(devices.split(","))

    in_order = heapq.merge(*map(intervals, PLACES))
    return union_by_device(
        ((devices, start_ns, end_ns) for start_ns, end_ns, devices in in_order),
        since_ns=within.since_ns,
        until_ns=within.until_ns,
    )


def unit_of(busy: dict[str, int]) -> Unit:
    """Return GPU seconds if any GPU did work, else engine seconds."""
    return (
        "gpu_seconds"
        if any(busy_ns and is_gpu(device) for device, busy_ns in busy.items())
        else "engine_seconds"
    )


def works(connection: Connection, where: ColumnElement[bool]) -> list[Work]:
    """Return what the attempts of the selected requests did, summed by place, tier and kind."""
    return [work for place in PLACES for work in _works_in(connection, place, where)]


def _works_in(connection: Connection, place: Place, where: ColumnElement[bool]) -> list[Work]:
    kinds = (place.tier, place.status, place.gpu, place.devices)
    rows = connection.execute(
        select(
            *kinds,
            func.count(),
            func.coalesce(func.sum(place.prompt_tokens), 0),
            func.coalesce(func.sum(place.completion_tokens), 0),
            func.sum(place.device_ns),
        )
        .select_from(place.joined)
        .where(where, place.is_told)
        .group_by(*kinds)
    )
    return [
        Work(
            tier=tier,
            delivered=status in _DELIVERED,
            gpu=bool(gpu),
            remote=devices == "",
            requests=int(count),
            prompt_tokens=int(prompt),
            completion_tokens=int(completion),
            device_s=int(device_ns) / 1e9,
        )
        for tier, status, gpu, devices, count, prompt, completion, device_ns in rows
    ]


def tokens_by_tier(connection: Connection, where: ColumnElement[bool]) -> dict[str, int]:
    """Return the tokens charged for requests that a tier delivered something for."""
    rows = connection.execute(
        select(outcomes.c.tier, func.sum(outcomes.c.prompt_tokens + outcomes.c.completion_tokens))
        .where(where, outcomes.c.status.in_(_DELIVERED), outcomes.c.tier.is_not(None))
        .group_by(outcomes.c.tier)
    )
    return {tier: int(tokens) for tier, tokens in rows}


def requests_by_tier(connection: Connection, where: ColumnElement[bool]) -> dict[str, int]:
    """Return how many requests each tier delivered something for."""
    rows = connection.execute(
        select(outcomes.c.tier, func.count())
        .where(
            where, outcomes.c.status.in_(_DELIVERED), outcomes.c.attempts > 0, outcomes.c.tier.is_not(None)
        )
        .group_by(outcomes.c.tier)
    )
    return {tier: int(count) for tier, count in rows}


def from_cache(connection: Connection, where: ColumnElement[bool]) -> tuple[int, int]:
    """Return how many requests were answered from the cache, and the device nanoseconds that this saved."""
    saved_ns = outcomes.c.saved_device_ns
    row = connection.execute(
        select(func.count(saved_ns), func.coalesce(func.sum(saved_ns), 0)).where(where)
    ).one()
    return int(row[0]), int(row[1])


def fit_sums(connection: Connection, heavy: str, unit: Unit, since_ns: int, until_ns: int) -> FitSums:
    """Return the fit's sums over HEAVY's finished attempts, of all tenants, that began in [since, until)."""
    began = since_ns, until_ns
    row = [
        sum(parts)
        for parts in zip(*(_sums(connection, place, heavy, unit, began) for place in PLACES), strict=True)
    ]
    return FitSums(
        n=int(row[0]),
        p=int(row[1]),
        c=int(row[2]),
        pp=int(row[3]),
        pc=int(row[4]),
        cc=int(row[5]),
        d=float(row[6]),
        pd=float(row[7]),
        cd=float(row[8]),
        dd=float(row[9]),
    )


def _sums(
    connection: Connection, place: Place, heavy: str, unit: Unit, began: tuple[int, int]
) -> Sequence[Any]:
    p, c = place.prompt_tokens, place.completion_tokens
    # Floating point: nanoseconds squared would leave 64 bits.
    d = cast(place.device_ns, Float) / 1e9
    finished = and_(
        place.tier == heavy,
        place.dispatched_ns >= began[0],
        place.dispatched_ns < began[1],
        place.status == "ok",
        place.devices != "",
        place.device_ns > 0,
        p.is_not(None),
        c.is_not(None),
    )
    if unit == "gpu_seconds":
        finished = and_(finished, place.gpu)
    products = (p, c, p * p, p * c, c * c, d, p * d, c * d, d * d)
    sums = (func.coalesce(func.sum(product), 0) for product in products)
    return connection.execute(select(func.count(), *sums).select_from(place.table).where(finished)).one()


def span_ns(connection: Connection, where: ColumnElement[bool], devices: set[str]) -> tuple[int, int] | None:
    """Return first dispatch and last end of the selected requests on the devices; None without any."""
    spans = [
        (first_ns, last_ns)
        for place in PLACES
        for names, first_ns, last_ns in connection.execute(
            select(place.devices, func.min(place.dispatched_ns), func.max(outcomes.c.at_ns))
            .select_from(place.joined)
            .where(where, place.is_told)
            .group_by(place.devices)
        )
        if devices & set(names.split(","))
    ]
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None
