"""Many kills, in episodes that are judged each: `scripts/kill-storm`.

An episode is a storm of its own with its own seed; with `--out` its figures are a line of JSON as soon as it
is over. A run that is started again with the same file goes on where it ended, and one whose time is over
stops after the kill it is at and writes what it has.
"""

import argparse
import json
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.proofs.kill_storm import KillPlan, kill_storm
from tests.proofs.matrix import read_lines, write_line
from tests.proofs.provenance import commit
from tests.proofs.replica_kills import replica_kills
from tests.proofs.servers import heed_signals
from trivet.lab.scratch_postgres import ScratchPostgres

FAILURES_MAX = 3
"""An episode that fails as a program is told and passed over; after so many of them it is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillOrders:
    """What is asked for on the command line."""

    store: str
    kills: int
    seed: int
    clients: int
    episode: int
    deadline_s: float
    out: Path | None


def run(orders: KillOrders) -> list[dict[str, Any]]:
    """Run the episodes that are missing and return the figures of all, those of earlier runs too."""
    lines = [] if orders.out is None else _earlier(orders)
    give_up_s = time.monotonic() + orders.deadline_s
    seed = max((line["seed"] + 1 for line in lines), default=orders.seed)
    failures = 0
    while (left := orders.kills - sum(line["kills"] for line in lines)) > 0 and failures < FAILURES_MAX:
        within_s = give_up_s - time.monotonic()
        if within_s <= 0:
            break
        plan = KillPlan(
            kills=min(left, orders.episode),
            seed=seed,
            store=orders.store,
            clients=orders.clients,
            within_s=within_s,
        )
        seed += 1
        try:
            figures = one(plan)
        except (OSError, RuntimeError, ValueError) as error:
            if orders.out is None:
                raise
            failures += 1
            traceback.print_exc(file=sys.stderr)
            figures = {"failed": str(error)[-500:], "seed": plan.seed, "store": plan.store}
        else:
            lines.append(figures)
        if orders.out is not None:
            write_line(orders.out, figures)
    return lines


def one(plan: KillPlan) -> dict[str, Any]:
    """Run one episode."""
    if plan.store == "sqlite":
        return kill_storm(plan)
    with ScratchPostgres(durable=True) as postgres:
        return replica_kills(plan, postgres)


def summary(orders: KillOrders, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all episodes; of one alone its own."""
    if len(lines) == 1:
        return {**lines[0], "kills_asked_for": orders.kills}
    kills = sum(line["kills"] for line in lines)
    places: Counter[str] = Counter()
    for line in lines:
        places.update(line["by_place"])
    closings = [line["max_close_s"] for line in lines if line.get("max_close_s") is not None]
    return {
        "store": orders.store,
        "kills": kills,
        "kills_asked_for": orders.kills,
        **{name: sum(line[name] for line in lines) for name in ("overspend", "violations")},
        "overcharge_per_kill": round(
            sum(line["overcharge_per_kill"] * line["kills"] for line in lines) / max(1, kills), 1
        ),
        "max_recovery_s": max((line["max_recovery_s"] for line in lines), default=None),
        "max_close_s": max(closings, default=None),
        "holds_charged_in_full": sum(line["holds_charged_in_full"] for line in lines),
        "by_place": dict(places),
        "episodes": len(lines),
        "seeds": [line["seed"] for line in lines],
        "commits": sorted({line["commit"] for line in lines}),
        "violation_examples": [each for line in lines for each in line["violation_examples"]][:5],
    }


def _earlier(orders: KillOrders) -> list[dict[str, Any]]:
    """Return the episodes of this code on this store that the file has already."""
    now = commit()
    assert orders.out is not None
    return [
        line
        for line in read_lines(orders.out)
        if "failed" not in line and line["commit"] == now and line["store"] == orders.store
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the kills; exit with 1 if a bar is missed (that on recovery is told, not judged: it is the
    machine's, too), with 3 if time was over before all were done."""
    parser = argparse.ArgumentParser(prog="scripts/kill-storm", description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--episode", type=int, default=100, help="kills that are judged together (100)")
    parser.add_argument("--deadline-s", type=float, default=math.inf, help="kill no more after so long")
    parser.add_argument("--out", type=Path, help="add a line for each episode, and go on where it ends")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    told = vars(parser.parse_args(arguments))
    as_json = told.pop("json")
    orders = KillOrders(**told)
    heed_signals()
    lines = run(orders)
    figures = summary(orders, lines)
    if as_json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in figures.items()))
    if not lines or figures["overspend"] or figures["violations"]:
        raise SystemExit(1)
    raise SystemExit(0 if figures["kills"] >= orders.kills else 3)


if __name__ == "__main__":
    main()
