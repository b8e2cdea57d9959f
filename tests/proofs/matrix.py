"""Many storms, one after the other, each a line of JSON in a file: `scripts/storm-matrix`.

Stores x processes x clients x ladders x plain or streamed x seeds, at the level of whole servers; then the
level of the ledger. PostgreSQL runs once for all of them, every storm in a database of its own.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.proofs.servers import heed_signals
from tests.proofs.storm import Plan, is_clean, storm
from trivet.lab.scratch_postgres import ScratchPostgres


def plans(seeds: Sequence[int], clients: Sequence[int]) -> Iterator[Plan]:
    """Give the storms, all of one seed before the next, so that a run that is cut short has a whole part.

    A process has at least one client.
    """
    for seed in seeds:
        for store, processes, count, ladder, mode in itertools.product(
            ("sqlite", "postgres"), (1, 2, 4), clients, ("default", "strict"), ("plain", "stream")
        ):
            if processes <= count:
                yield Plan(
                    store=store, processes=processes, clients=count, seed=seed, ladder=ladder, mode=mode
                )
        for processes, count, ladder in itertools.product((1, 2, 4), clients, ("default", "strict")):
            level = {"level": "ledger", "clients": count, "seed": seed, "ladder": ladder}
            if processes <= count:
                yield Plan(store="postgres", processes=processes, **level)  # type: ignore[arg-type]
            if processes == 1:
                yield Plan(store="sqlite", processes=1, **level)  # type: ignore[arg-type]


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of many storms."""
    summed = ("requests", "served", "overspend", "false_refusals", "leaked_holds", "beyond_any_limit")
    counted = ("policy_refusals", "capacity_refusals", "contended_refusals")
    return {
        "storms": len(lines),
        "clean": sum(is_clean(line) for line in lines),
        **{name: sum(line[name] for line in lines) for name in (*summed, *counted)},
        "largest_unspent": max((line["unspent"] for line in lines), default=0),
        "minimum_hold": max((line["minimum_hold"] for line in lines), default=0),
        "commits": sorted({line["commit"] for line in lines}),
        "seeds": sorted({line["seed"] for line in lines}),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the matrix until it is through or time is over; print the sums; exit with 1 if one is not clean."""
    parser = argparse.ArgumentParser(prog="scripts/storm-matrix", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no storm after so long")
    parser.add_argument("--out", type=Path, required=True, help="a file to which lines are added")
    told = parser.parse_args(arguments)
    heed_signals()
    lines: list[dict[str, Any]] = []
    give_up = time.monotonic() + told.minutes * 60
    seeds = range(told.first_seed, told.first_seed + told.seeds)
    with ScratchPostgres(durable=True) as postgres, told.out.open("a") as out:
        for plan in plans(seeds, told.clients):
            if time.monotonic() > give_up:
                break
            figures = storm(plan, postgres=postgres)
            lines.append(figures)
            out.write(json.dumps(figures) + "\n")
            out.flush()
    print(json.dumps(summary(lines)))
    raise SystemExit(0 if all(is_clean(line) for line in lines) else 1)


if __name__ == "__main__":
    main()
