"""The play: traffic, a killed engine in the middle of it, and the report."""

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trivet.domain.errors import EngineUnavailable
from trivet.lab.demo.report import DemoReport
from trivet.lab.demo.stage import Stage, open_stage
from trivet.lab.demo.tenants import BUDGETS, User, admit_tenants
from trivet.lab.demo.traffic import Call, Tally, make_calls, send, standard_burst

CLIENTS = 8
BURST = 6
VICTIM_TIER = "standard"
SETTLE_TIMEOUT_S = 10.0
KILL_PATIENCE_S = 10.0
SEED = 20261120

Say = Callable[[str], None]


async def run_demo(
    *, requests: int, port: int, stay: bool, say: Say, show: Callable[[DemoReport], None]
) -> DemoReport:
    """Play the demo and return its report; with `stay` the server runs on until SIGINT.

    Args:
        requests: how many chat requests to send.
        port: where the server shall listen; another free port is taken if it is in use.
        stay: keep the server running after the report.
        say: tells the user what happens.
        show: shows the report.
    """
    free = free_port_near(port)
    if port and free != port:
        say(f"Port {port} is taken; the demo listens on {free}.")
    say("Writing three tiny models (random weights: their answers are nonsense), starting engines ...")
    started = datetime.now(UTC)
    async with open_stage(free) as stage:
        users = await admit_tenants(stage)
        tally = await _perform(stage, users, requests, say)
        report = await _report(stage, users, tally, started)
        show(report)
        if stay:
            await _until_interrupted()
        return report


def free_port_near(port: int) -> int:
    """Return the port if nobody listens on it, else one that is free."""
    for wanted in (port, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", wanted))
                found: int = probe.getsockname()[1]
                return found
    raise OSError("No port is free on 127.0.0.1.")


async def _perform(stage: Stage, users: Sequence[User], requests: int, say: Say) -> Tally:
    dice = random.Random(SEED)  # noqa: S311 - a reproducible mixture, not a secret
    calls = make_calls(users, requests - BURST, dice)
    middle = len(calls) * 2 // 5
    tally = Tally()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=stage.url, timeout=120.0, trust_env=False) as http:
        with bar:
            task = bar.add_task("Requests", total=requests)

            async def play(part: Sequence[Call]) -> None:
                waiting = iter(part)

                async def client() -> None:
                    for call in waiting:
                        await send(http, call, tally)
                        bar.advance(task)

                await asyncio.gather(*(client() for _ in range(CLIENTS)))

            await play(calls[:middle])
            await freeze_engine(stage)
            burst = asyncio.gather(
                play(standard_burst(users, BURST, dice)), play(calls[middle : middle + CLIENTS])
            )
            killed = await kill_engine(stage)
            bar.console.print(
                f"Killed the {VICTIM_TIER} engine (process {killed}) with requests in flight on it."
            )
            await burst
            await play(calls[middle + CLIENTS :])
    return tally


async def freeze_engine(stage: Stage) -> None:
    """Stop the victim's process where it is: on no machine can it answer before it is killed.

    Raises:
        EngineUnavailable: it does not run.
    """
    async with httpx.AsyncClient(base_url=stage.url, headers=_owner(stage), trust_env=False) as http:
        victim = await _victim(http)
    if victim["pid"] is None:
        raise EngineUnavailable(f"The {VICTIM_TIER} engine does not run: {victim['detail']}.")
    os.kill(victim["pid"], signal.SIGSTOP)


async def kill_engine(stage: Stage, *, patience_s: float = KILL_PATIENCE_S) -> int:
    """Kill the victim's process once requests are in flight on it; return its process id.

    When the patience ends it is killed all the same: the play must end.

    Raises:
        EngineUnavailable: it does not run.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    async with httpx.AsyncClient(base_url=stage.url, headers=_owner(stage), trust_env=False) as http:
        while True:
            victim = await _victim(http)
            pid: int | None = victim["pid"]
            over = loop.time() > deadline
            # More than one in flight, so that one surely has no answer yet.
            if pid is not None and (over or victim["in_flight"] >= 2):
                os.kill(pid, signal.SIGKILL)
                return pid
            if over:
                raise EngineUnavailable(f"The {VICTIM_TIER} engine does not run: {victim['detail']}.")
            await asyncio.sleep(0.005)


async def _victim(http: httpx.AsyncClient) -> dict[str, Any]:
    engines = (await http.get("/api/v1/deployments")).raise_for_status().json()["deployments"]
    found: dict[str, Any] = next(engine for engine in engines if engine["tier"] == VICTIM_TIER)
    return found


async def _report(stage: Stage, users: Sequence[User], tally: Tally, started: datetime) -> DemoReport:
    async with httpx.AsyncClient(base_url=stage.url, headers=_owner(stage), trust_env=False) as http:
        tenants = await _settled_rows(http)
        answer = await http.get("/api/v1/savings", params={"since": started.isoformat()})
        savings = answer.raise_for_status().json()
    rich = next(user for user in users if user.scope.startswith("globex.research"))
    return DemoReport(tally=tally, tenants=tenants, savings=savings, url=stage.url, api_key=rich.api_key)


async def _settled_rows(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Return the limited daily rows once nothing is held any more, or as they are after a while."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_TIMEOUT_S
    while True:
        rows = (await http.get("/api/v1/budgets")).raise_for_status().json()["rows"]
        limited = {scope for scope, _ in BUDGETS}
        found = [row for row in rows if row["scope"] in limited and row["window"] == "daily"]
        if not any(row["held"] for row in found) or loop.time() > deadline:
            return [{key: row[key] for key in ("scope", "meter", "used", "held", "limit")} for row in found]
        await asyncio.sleep(0.05)


def _owner(stage: Stage) -> dict[str, str]:
    return {"authorization": f"Bearer {stage.owner_token}"}


async def _until_interrupted() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
