"""Closed-loop load on bare asyncio protocols: each connection asks again as soon as it has been answered.

Every answer is looked at: its status, and that all of its content arrived. Every prompt is another one.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.proofs.overhead.upstream import PIECES, WORD

_WORD = WORD.strip().encode()
WARM_UP_S = 0.4
ANSWER_TIMEOUT_S = 30.0
TURNS_MIN = 4
"""So often each caller is answered, on average, before a run ends, though it take up to LONGEST_S."""
LONGEST_S = 20.0
NUMBERS = itertools.count()
"""Goes on over all runs, so that no prompt ever comes twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Where to send requests, and as whom."""

    url: str
    key: str = "none"
    model: str = "mock"
    pid: int | None = None
    """Whose processor time and memory is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one run showed."""

    requests_per_s: float
    cpu_ms: float
    """Processor time of the target's process for each request, in milliseconds."""
    p50_ms: float
    p99_ms: float
    rss_mb: float
    requests: int


class WrongAnswer(Exception):
    """An answer was not what the engine said."""


@dataclass(slots=True)
class _Run:
    """What the connections of one run share."""

    goal: Goal
    stream: bool
    counting: bool = False
    over: bool = False
    latencies_s: list[float] = field(default_factory=list)
    failure: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def requests(self) -> Callable[[], bytes]:
        """Return what makes the next request, each as long as the last."""
        prompt = "Tell me what is known about the harvest of winter wheat, {:08d}."
        body = {
            "model": self.goal.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": self.stream,
        }
        before, after = json.dumps(body).split("{:08d}")
        length = len(before) + 8 + len(after)
        parts = urlsplit(self.goal.url)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer {self.goal.key}\r\n"
            "User-Agent: OpenAI/Python\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )

        def request() -> bytes:
            return f"{head}{before}{next(NUMBERS):08d}{after}".encode()

        return request


class _Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._next = run.requests()
        self._parts: list[bytes] = []
        self._size = 0
        self._whole_at: int | None = None
        self._asked_s = 0.0
        self._transport: asyncio.Transport | None = None
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask for the first time."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Gather an answer; look at it when it is whole."""
        first = not self._parts
        self._parts.append(data)
        self._size += len(data)
        if first:
            self._whole_at = _whole_at(data)
        if self._size == self._whole_at if self._whole_at is not None else data.endswith(b"0\r\n\r\n"):
            self._take(b"".join(self._parts))

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends while an answer is awaited has failed."""
        if not self.idle.done():
            self._fail(f"the connection ended ({exc})")

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _ask(self) -> None:
        assert self._transport is not None
        self._parts, self._size = [], 0
        self._asked_s = time.perf_counter()
        self._transport.write(self._next())

    def _take(self, answer: bytes) -> None:
        run = self._run
        if run.counting:
            run.latencies_s.append(time.perf_counter() - self._asked_s)
        whole = answer.startswith(b"HTTP/1.1 200") and answer.count(_WORD) == PIECES
        if not whole or (run.stream and b"data: [DONE]" not in answer):
            self._fail(answer[:1500].decode("utf-8", "replace"))
        elif run.over:
            if not self.idle.done():
                self.idle.set_result(None)
        else:
            self._ask()

    def _fail(self, why: str) -> None:
        if not self._run.failure.done():
            self._run.failure.set_exception(WrongAnswer(f"{self._run.goal.url}: {why}"))
        if not self.idle.done():
            self.idle.set_result(None)


def _whole_at(first: bytes) -> int | None:
    """Return the size of an answer of known length, whose head is in the first part."""
    head, _, _ = first.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(head) + 4 + int(value)
    return None


async def measure(goal: Goal, *, stream: bool, concurrency: int, seconds: float) -> Reading:
    """Send requests for so many seconds, after a short warm-up.

    Raises:
        WrongAnswer: one was not answered as it should have been.
    """
    loop = asyncio.get_running_loop()
    parts = urlsplit(goal.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    run = _Run(goal=goal, stream=stream)
    callers = []
    try:
        for _ in range(concurrency):
            _, caller = await loop.create_connection(lambda: _Caller(run), host, port)
            callers.append(caller)
        await _sleep(min(WARM_UP_S, seconds), run)
        run.counting = True
        begun_s, busy_s = time.perf_counter(), cpu_s(goal.pid)
        await _sleep(seconds, run)
        # What a slow target has begun and not ended would count as cost without a request.
        while len(run.latencies_s) < TURNS_MIN * concurrency and time.perf_counter() - begun_s < LONGEST_S:
            await _sleep(0.05, run)
        while not run.latencies_s:
            await _sleep(0.05, run)
        took_s, used_s, taken = (
            time.perf_counter() - begun_s,
            cpu_s(goal.pid) - busy_s,
            sorted(run.latencies_s),
        )
        run.counting, run.over = False, True
        await asyncio.wait_for(asyncio.gather(*(caller.idle for caller in callers)), ANSWER_TIMEOUT_S)
        if run.failure.done():
            run.failure.result()
    finally:
        for caller in callers:
            caller.close()
        run.failure.cancel()
    return Reading(
        requests_per_s=len(taken) / took_s,
        cpu_ms=used_s * 1000 / len(taken),
        p50_ms=taken[len(taken) // 2] * 1000,
        p99_ms=taken[min(len(taken) - 1, int(0.99 * len(taken)))] * 1000,
        rss_mb=rss_mb(goal.pid),
        requests=len(taken),
    )


async def _sleep(seconds: float, run: _Run) -> None:
    await asyncio.wait({run.failure}, timeout=seconds)
    if run.failure.done():
        run.failure.result()


def cpu_s(pid: int | None) -> float:
    """Return the processor time that a process has used, all its threads together, ended ones included."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def rss_mb(pid: int | None) -> float:
    """Return a process's resident memory in MB of 10^6 bytes."""
    if pid is None:
        return 0.0
    return next(_kib(pid)) * 1024 / 1e6


def _kib(pid: int) -> Iterator[int]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            yield int(line.split()[1])
