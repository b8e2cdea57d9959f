"""What dripping clients do to all others: sockets that send a byte now and then, beside plain requests.

Usage: `scripts/slow-clients --help`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.proofs.overhead import targets
from tests.proofs.overhead.load import Goal, Reading, cpu_s, measure
from tests.proofs.provenance import provenance
from tests.proofs.servers import heed_signals
from trivet.domain.serving import new_event_loop

BAR = 1.10
"""The others' p99 with the drippers, as a part of that without."""
HEADS = (
    b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nx-api-key: %s\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n",
)
"""A head that never ends, a body that never ends, and a body that goes on after its refusal."""
SLICES = 50
"""So many times in an interval a part of the sockets drips."""


def slow_clients(
    *, sockets: int, concurrency: int, seconds: float, rounds: int, interval_s: float
) -> dict[str, Any]:
    """Measure plain requests with and without the dripping sockets, in turns.

    Args:
        sockets: how many drip; each that the server closes is opened again at once.
        concurrency: callers at once of those who are measured.
        seconds: of each run.
        rounds: how often both are measured.
        interval_s: each socket sends a byte so often.

    Returns:
        rows, medians with and without, ratios, how often a dripping socket was opened, what the drips alone
        cost of a processor (`drips_cpu_percent`), and what was asked.
    """
    found: dict[str, list[Reading]] = {"without": [], "with": []}
    opened, alone = 0, 0.0
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="trivet-slow-") as place,
        targets.Programs(Path(place)) as programs,
    ):
        upstream = targets.start_upstream(programs, gap_ms=0.0)
        goal = targets.start_trivet(programs, upstream.url, Path(place))
        _measured(goal, concurrency, 1.0)  # everything imported
        alone = -_cpu_share(goal, seconds)
        with _dripping(goal, sockets, interval_s):
            alone += _cpu_share(goal, seconds)
        for number in range(rounds):
            _say(f"round {number + 1}/{rounds}")
            for name in ("without", "with") if number % 2 == 0 else ("with", "without"):
                with (
                    _dripping(goal, sockets, interval_s)
                    if name == "with"
                    else contextlib.nullcontext() as drips
                ):
                    found[name].append(_measured(goal, concurrency, seconds))
                if drips is not None:
                    opened += drips["opened"]
    medians = {name: _medians(readings) for name, readings in found.items()}
    ratios = {key: round(medians["with"][key] / medians["without"][key], 3) for key in medians["with"]}
    return {
        "rows": [{"sockets": name, **_row(r)} for name, readings in found.items() for r in readings],
        "medians": medians,
        "ratios": ratios,
        "bar": {"p99_ratio": BAR, "met": ratios["p99_ms"] <= BAR},
        "opened": opened,
        "drips_cpu_percent": round(100 * alone, 2),
        "asked": {
            "sockets": sockets,
            "concurrency": concurrency,
            "seconds": seconds,
            "rounds": rounds,
            "interval_s": interval_s,
        },
        "load_before": round(load, 1),
        **provenance(0),
    }


def _measured(goal: Goal, concurrency: int, seconds: float) -> Reading:
    return asyncio.run(measure(goal, stream=False, concurrency=concurrency, seconds=seconds))


def _cpu_share(goal: Goal, seconds: float) -> float:
    begun_s, used_s = time.perf_counter(), cpu_s(goal.pid)
    time.sleep(seconds)
    return (cpu_s(goal.pid) - used_s) / (time.perf_counter() - begun_s)


@contextlib.contextmanager
def _dripping(goal: Goal, sockets: int, interval_s: float) -> Iterator[dict[str, int]]:
    """Run the dripping clients in a process of their own; at the end tell how many sockets they opened."""
    told: dict[str, int] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.proofs.slow_clients", "--drip", goal.url, "--key", goal.key,
         "--sockets", str(sockets), "--interval-s", str(interval_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the dripping clients did not connect")
        time.sleep(1.0)
        yield told
        process.stdin.close()
        told.update(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class _Drip(asyncio.Protocol):
    """One socket. Cheap: what it costs, the server and those who are measured cannot have."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self.transport = transport
        transport.write(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Be opened again."""
        self.transport = None


async def drip(url: str, key: str, sockets: int, interval_s: float) -> None:
    """Drip until standard input ends; say `ready` once every socket is open, and at the end how many were."""
    loop = asyncio.get_running_loop()
    host, port = urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80
    drips = [_Drip(HEADS[number % len(HEADS)].replace(b"%s", key.encode())) for number in range(sockets)]
    opened, said = 0, False
    over = loop.create_task(asyncio.to_thread(sys.stdin.read))
    while not over.done():
        for part in range(SLICES):
            for each in drips[part::SLICES]:
                if each.transport is not None:
                    each.transport.write(b"a")
                    continue
                with contextlib.suppress(OSError):
                    await loop.create_connection(lambda each=each: each, host, port)  # type: ignore[misc]
                    opened += 1
            await asyncio.wait({over}, timeout=interval_s / SLICES)
        if not said:
            said = True
            sys.stdout.write("ready\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps({"opened": opened}) + "\n")
    sys.stdout.flush()


def _row(reading: Reading) -> dict[str, float]:
    return {
        "requests_per_s": round(reading.requests_per_s, 1),
        "cpu_ms": round(reading.cpu_ms, 3),
        "p50_ms": round(reading.p50_ms, 2),
        "p99_ms": round(reading.p99_ms, 2),
        "rss_mb": round(reading.rss_mb, 1),
    }


def _medians(readings: list[Reading]) -> dict[str, float]:
    rows = [_row(reading) for reading in readings]
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def _say(what: str) -> None:
    sys.stderr.write(what + "\n")


def main() -> None:
    """Measure, and exit with 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000, help="sockets that drip (1000)")
    parser.add_argument("--interval-s", type=float, default=2.0, help="each sends a byte so often (2)")
    parser.add_argument("--concurrency", type=int, default=4, help="callers at once that are measured (4)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run (5)")
    parser.add_argument("--rounds", type=int, default=5, help="how often with and without (5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--drip", help=argparse.SUPPRESS)
    parser.add_argument("--key", default="", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.drip:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(drip(told.drip, told.key, told.sockets, told.interval_s))
        return
    heed_signals()
    result = slow_clients(
        sockets=told.sockets,
        concurrency=told.concurrency,
        seconds=told.seconds,
        rounds=told.rounds,
        interval_s=told.interval_s,
    )
    if told.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        for name, medians in result["medians"].items():
            sys.stdout.write(f"{name:8} {medians}\n")
        sys.stdout.write(
            f"ratios   {result['ratios']}; opened {result['opened']} dripping sockets,"
            f" which alone cost {result['drips_cpu_percent']} % of a core\n"
        )
    sys.exit(0 if result["bar"]["met"] else 1)


if __name__ == "__main__":
    main()
