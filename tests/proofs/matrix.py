"""Many storms, one after the other, each a line of JSON in a file: `scripts/storm-matrix`.

Stores x processes x clients x ladders x plain or streamed x seeds, at the level of whole servers; then the
level of the ledger. PostgreSQL runs once for all of them, every storm in a database of its own.

A run that is started again with the same file leaves out what this commit has done there. A storm that fails
as a program is a line, too, and the next one runs; it is tried again by the next run.
"""

import argparse
import itertools
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tests.proofs.provenance import commit
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of JSON; half a line, cut by a kill, is left out. No file: none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def write_line(path: Path, figures: dict[str, Any]) -> None:
    """Add a line, on a line of its own whatever stands before it."""
    with path.open("a+b") as out:
        if out.seek(0, 2):
            out.seek(-1, 2)
            if out.read(1) != b"\n":
                out.write(b"\n")
        out.write(json.dumps(figures).encode() + b"\n")


def run(
    wanted: Sequence[Plan], out: Path, *, deadline_s: float, one: Callable[[Plan], dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """Run the storms that the file has not got, until time is over; `one` runs one.

    Returns:
        The lines of all that are done, those of earlier runs too, and how many failed as programs.
    """
    now, give_up_s = commit(), time.monotonic() + deadline_s
    done = {
        json.dumps(line["plan"], sort_keys=True): line
        for line in read_lines(out)
        if "failed" not in line and line["commit"] == now
    }
    lines, failures = [], 0
    for plan in wanted:
        name = json.dumps(asdict(plan), sort_keys=True)
        if name in done:
            lines.append(done[name])
            continue
        if time.monotonic() >= give_up_s:
            continue
        try:
            figures = one(plan)
        except Exception as error:  # noqa: BLE001 - whatever it was, the night is not over
            failures += 1
            traceback.print_exc(file=sys.stderr)
            write_line(out, {"failed": f"{type(error).__name__}: {error}"[-500:], "plan": asdict(plan)})
            continue
        lines.append(figures)
        write_line(out, figures)
    return lines, failures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the matrix until it is through or time is over; print the sums; exit with 1 if one is not clean,
    with 3 if time was over before all were done."""
    parser = argparse.ArgumentParser(prog="scripts/storm-matrix", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--deadline-s", type=float, default=math.inf, help="begin no storm after so long")
    parser.add_argument("--out", type=Path, required=True, help="add a line for each storm, and go on there")
    told = parser.parse_args(arguments)
    heed_signals()
    seeds = range(told.first_seed, told.first_seed + told.seeds)
    wanted = list(plans(seeds, told.clients))
    with ScratchPostgres(durable=True) as postgres:
        lines, failures = run(
            wanted, told.out, deadline_s=told.deadline_s, one=partial(storm, postgres=postgres)
        )
    print(json.dumps({**summary(lines), "wanted": len(wanted), "failed": failures}))
    if failures or not all(is_clean(line) for line in lines):
        raise SystemExit(1)
    raise SystemExit(0 if len(lines) == len(wanted) else 3)


if __name__ == "__main__":
    main()
