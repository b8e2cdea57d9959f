"""How long the status API takes with many scopes and a busy hour behind it, on this machine.

Usage: `scripts/bench-status --help`.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from trivet.app import open_trivet
from trivet.budgets import Ledger
from trivet.config.settings import Settings
from trivet.domain.budgets import Hold
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.sdk.in_process import InProcessTransport

_AT_ONCE = 64


def scopes_of(count: int) -> list[Scope]:
    """Return so many scopes: ten organisations, their teams, and ten users in each team."""
    organisations = [f"o{n}" for n in range(10)]
    teams = [f"{name}.t{n}" for n in range(max(0, count // 110)) for name in organisations]
    users = [f"{name}.u{n}" for n in range(10) for name in teams]
    return [Scope(name) for name in (organisations + teams + users)[:count]]


async def bench_status(
    store: str, *, scopes: int, pairs: int, requests: int, seed: int, directory: Path | None = None
) -> dict[str, Any]:
    """Fill a ledger, then ask the status of one scope after the other, in process but through the API.

    Returns:
        p50_ms, p99_ms, max_ms, and this process's cpu_p99_ms of `GET /api/v1/budgets/{scope}/status`;
        rows_p50_ms, rows_p99_ms and rows_cpu_p99_ms of `GET /api/v1/budgets`, which lists all scopes; and
        what was asked.
    """
    drawn = random.Random(seed)
    with _settings(store, directory) as settings:
        async with open_trivet(settings, with_engines=False) as trivet:
            known = scopes_of(scopes)
            await _fill(trivet.ledger, known, pairs, drawn)
            gc.freeze()  # as `trivet serve` does once it is ready
            headers = {"authorization": f"Bearer {trivet.owner_token}"}
            async with httpx.AsyncClient(
                transport=InProcessTransport(trivet.application), base_url="http://trivet", headers=headers
            ) as http:
                # As many of the hot organisation's as of all others together.
                hot = [scope for scope in known if scope == "o0" or scope.startswith("o0.")]
                paths = [
                    f"/api/v1/budgets/{drawn.choice(hot if n % 2 else known)}/status" for n in range(requests)
                ]
                status, cpu = await _timed(http, paths)
                listing, listing_cpu = await _timed(http, ["/api/v1/budgets"] * max(10, requests // 5))
    return {
        "store": store,
        "scopes": len(known),
        "entries": 2 * pairs,
        "requests": requests,
        "p50_ms": _at(status, 0.5),
        "p99_ms": _at(status, 0.99),
        "max_ms": _at(status, 1.0),
        "cpu_p99_ms": _at(cpu, 0.99),
        "rows_p50_ms": _at(listing, 0.5),
        "rows_p99_ms": _at(listing, 0.99),
        "rows_cpu_p99_ms": _at(listing_cpu, 0.99),
        "seed": seed,
    }


@contextlib.contextmanager
def _settings(store: str, directory: Path | None) -> Iterator[Settings]:
    with (
        tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=directory) as place,
        contextlib.ExitStack() as exits,
    ):
        tree: dict[str, Any] = {"store": {"path": Path(place) / "trivet.db"}, "logging": {"level": "error"}}
        tree["budgets"] = {"default_daily_tokens": 10**12, "default_monthly_tokens": 10**13}
        if store == "postgres":
            url = exits.enter_context(ScratchPostgres(durable=False, directory=directory)).url()
            tree["store"]["url"] = url
            tree["access"] = {"pepper": "p" * 32}
        yield Settings.model_validate(tree)


async def _fill(ledger: Ledger, scopes: Sequence[Scope], pairs: int, drawn: random.Random) -> None:
    """Limit each scope, then hold and settle; half of it all in the first organisation."""
    for scope in scopes:
        await asyncio.wrap_future(ledger.set_limit(scope, "weekly", 10**12, author="bench"))
    hot = [scope for scope in scopes if scope.startswith("o0.")] or list(scopes)
    for begin in range(0, pairs, _AT_ONCE):
        numbers = range(begin, min(begin + _AT_ONCE, pairs))
        holds = [
            (f"r{n}", Hold.of_tokens(drawn.choice(hot if n % 2 else scopes), drawn.randint(10, 1000)))
            for n in numbers
        ]
        held = [ledger.reserve(hold, reservation_id=name) for name, hold in holds]
        await asyncio.gather(*map(asyncio.wrap_future, held))
        ended = [
            ledger.settle(name, Usage(hold.prompt.tokens, 0), charged=hold.prompt) for name, hold in holds
        ]
        await asyncio.gather(*map(asyncio.wrap_future, ended))


async def _timed(http: httpx.AsyncClient, paths: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return what each request took, in order of size: on the wall, and of this process's processors."""
    wall, cpu = [], []
    for path in paths:
        begun, busy = time.perf_counter(), time.process_time()
        answer = await http.get(path)
        wall.append((time.perf_counter() - begun) * 1000)
        cpu.append((time.process_time() - busy) * 1000)
        answer.raise_for_status()
    return sorted(wall), sorted(cpu)


def _at(ordered: Sequence[float], part: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2)


def main() -> None:
    """Run the bench from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--scopes", type=int, default=1000)
    parser.add_argument(
        "--pairs", type=int, default=20_000, help="holds made and settled within the hour before"
    )
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = asyncio.run(
        bench_status(
            asked.store, scopes=asked.scopes, pairs=asked.pairs, requests=asked.requests, seed=asked.seed
        )
    )
    if asked.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    sys.stdout.write(
        f"{found['store']}, {found['scopes']} scopes, {found['entries']} entries in the hour:"
        f" status p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms (CPU {found['cpu_p99_ms']} ms);"
        f" list of all p50 {found['rows_p50_ms']} ms, p99 {found['rows_p99_ms']} ms"
        f" (CPU {found['rows_cpu_p99_ms']} ms)\n"
    )


if __name__ == "__main__":
    main()
