"""From readings to rows, ratios and a table: medians over rounds, and how far the rounds lie apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from tests.proofs.overhead.load import Reading

RELAY_OF_UPSTREAM_MIN = 0.12
"""A run counts only if the bare relay reaches this part of the engine's own plain rate: else the load, or
another program, is what was measured."""


class Place(NamedTuple):
    """What was measured: whom, how, with how many callers."""

    target: str
    mode: str
    concurrency: int


Rounds = Mapping[Place, Sequence[Reading]]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a ratio shall reach. All ratios are written so that more is better, or say `at most`."""

    ratio: str
    bar: float
    goal: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Tell whether the bar is reached."""
        return value <= self.bar if self.at_most else value >= self.bar


BARS = (
    Bar("plain_c16_rate_vs_litellm", 20.0, 25.0),
    Bar("plain_c16_rate_vs_relay", 0.42, 0.5),
    Bar("stream_c16_cpu_litellm_vs_trivet", 35.0, 45.0),
    Bar("stream_c16_cpu_trivet_vs_relay", 1.6, 1.4, at_most=True),
    Bar("plain_c1_added_p50_litellm_vs_trivet", 5.0, 5.0),
    Bar("rss_mb", 150.0, 150.0, at_most=True),
)


def rows_of(rounds: Rounds) -> list[dict[str, Any]]:
    """Return a row for each place; `spread` is the difference of its extreme rates, by their median."""
    rows = []
    for place, readings in rounds.items():
        rates = [reading.requests_per_s for reading in readings]
        rows.append(
            {
                **place._asdict(),
                "requests_per_s": round(median(rates), 1),
                "cpu_ms": round(median(reading.cpu_ms for reading in readings), 4),
                "p50_ms": round(median(reading.p50_ms for reading in readings), 3),
                "p99_ms": round(median(reading.p99_ms for reading in readings), 3),
                "rss_mb": round(max(reading.rss_mb for reading in readings), 1),
                "spread": round((max(rates) - min(rates)) / median(rates), 3),
            }
        )
    return rows


def ratios_of(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Return each ratio that can be told: its median over the rounds, its smallest and its largest.

    A ratio is taken within a round, whose parts were measured one right after the other.
    """
    found: dict[str, list[float]] = {}
    for index in range(min(map(len, rounds.values()), default=0)):
        at = {place: readings[index] for place, readings in rounds.items()}
        for name, value in _ratios(at):
            found.setdefault(name, []).append(value)
    return {
        name: {"median": round(median(v), 4), "min": round(min(v), 4), "max": round(max(v), 4)}
        for name, v in found.items()
    }


def _ratios(at: Mapping[Place, Reading]) -> Iterable[tuple[str, float]]:
    for concurrency in dict.fromkeys(place.concurrency for place in at):
        for mode in ("plain", "stream"):
            ours = at.get(Place("trivet", mode, concurrency))
            if ours is None:
                continue
            for other in ("litellm", "relay"):
                theirs = at.get(Place(other, mode, concurrency))
                if theirs is None:
                    continue
                yield f"{mode}_c{concurrency}_rate_vs_{other}", ours.requests_per_s / theirs.requests_per_s
                if other == "relay":
                    yield f"{mode}_c{concurrency}_cpu_trivet_vs_relay", _part(ours.cpu_ms, theirs.cpu_ms)
                else:
                    yield f"{mode}_c{concurrency}_cpu_litellm_vs_trivet", _part(theirs.cpu_ms, ours.cpu_ms)
                    direct = at.get(Place("upstream", mode, concurrency))
                    if direct is not None:
                        added = _part(theirs.p50_ms - direct.p50_ms, ours.p50_ms - direct.p50_ms)
                        yield f"{mode}_c{concurrency}_added_p50_litellm_vs_trivet", added
    relay, direct = at.get(Place("relay", "plain", 16)), at.get(Place("upstream", "plain", 16))
    if relay is not None and direct is not None:
        yield "plain_c16_rate_relay_vs_upstream", relay.requests_per_s / direct.requests_per_s
    memory = [reading.rss_mb for place, reading in at.items() if place.target == "trivet"]
    if memory:
        yield "rss_mb", max(memory)


def _part(value: float, of: float) -> float:
    return value / of if of > 0 else math.inf


def verdicts(ratios: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return each bar whose ratio was measured, with what was found."""
    return [
        {
            "ratio": bar.ratio,
            "found": ratios[bar.ratio]["median"],
            "bar": bar.bar,
            "goal": bar.goal,
            "at_most": bar.at_most,
            "met": bar.met(ratios[bar.ratio]["median"]),
        }
        for bar in BARS
        if bar.ratio in ratios
    ]


def counts(ratios: Mapping[str, Mapping[str, float]]) -> bool | None:
    """Tell whether the run counts; None where nothing tells: relay and engine were not measured at 16."""
    found = ratios.get("plain_c16_rate_relay_vs_upstream")
    return None if found is None else found["median"] >= RELAY_OF_UPSTREAM_MIN


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as tables."""
    lines = [
        "| target | mode | callers | requests/s | CPU ms | p50 ms | p99 ms | RSS MB | spread |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['target']} | {row['mode']} | {row['concurrency']} | {row['requests_per_s']:,.0f}"
            f" | {row['cpu_ms']:.3f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['rss_mb']:.0f}"
            f" | {row['spread']:.0%} |"
            for row in [*result["upstream"], *result["rows"]]
        ),
        "",
        "| ratio | median | rounds | bar | goal | |",
        "|---|---|---|---|---|---|",
    ]
    for verdict in result["bars"]:
        found = result["ratios"][verdict["ratio"]]
        sign = "≤" if verdict["at_most"] else "≥"
        lines.append(
            f"| {verdict['ratio']} | {found['median']:.2f} | {found['min']:.2f} to {found['max']:.2f}"
            f" | {sign} {verdict['bar']:g} | {verdict['goal']:g} | {'met' if verdict['met'] else 'MISSED'} |"
        )
    for mode, shares in result["shares"].items():
        told = ", ".join(f"{name} {part:.0%}" for name, part in shares.items() if name != "writer_thread")
        lines += ["", f"Trivet's processor time, {mode}: {told}."]
    if result["counts"] is False:
        lines += [
            "",
            "This run does not count: the bare relay reached less than 0.12 of the engine's own rate.",
        ]
    return "\n".join(lines) + "\n"
