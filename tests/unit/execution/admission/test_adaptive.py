"""The limit finds what an engine can do, on a virtual clock: told too much, too little, the truth."""

import asyncio
import random

from trivet.config.admission_settings import AdmissionSettings
from trivet.domain.errors import Overloaded
from trivet.domain.scopes import Scope
from trivet.execution.admission import Claim, Gate
from trivet.lab.virtual_time import LoopClock, run
from trivet.metering import Metrics


class Engine:
    """Runs so many at once, the others in its own queue; the first token after 0.5 s, the last after 2 s."""

    def __init__(self, slots: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._dice = random.Random(1)
        self.waits_s: list[float] = []

    async def run(self, gate: Gate, claim: Claim) -> None:
        """Pass the gate and be answered, unless it refuses."""
        loop, clock = asyncio.get_running_loop(), LoopClock()
        try:
            ticket = gate.take(claim) or await gate.queue(claim, left_s=300.0)
        except Overloaded:
            return
        sent_s, sent_ns = loop.time(), clock.monotonic_ns()
        async with self._slots:
            self.waits_s.append(loop.time() - sent_s)
            await asyncio.sleep(0.5 * self._dice.uniform(0.9, 1.1))
            ticket.answered(sent_ns, clock.monotonic_ns())
            await asyncio.sleep(1.5 * self._dice.uniform(0.5, 1.5))
        ticket.release()


async def converged(
    slots: int, *, seed: int, ceiling: int, seconds: int, per_s: int
) -> tuple[list[int], Engine]:
    """Return the limit at each second under a steady load, and the engine."""
    gate = Gate(
        "engine",
        seed=seed,
        ceiling=ceiling,
        settings=AdmissionSettings(max_wait_s=10.0),
        clock=LoopClock(),
        waits=Metrics().queue_wait,
    )
    engine = Engine(slots)
    claim = Claim(scope=Scope("acme"), priority="interactive", work=100, prompt_bytes=1000)
    # A morning with little to do tells what is ordinary.
    for _ in range(10):
        await engine.run(gate, claim)
    asking, limits = [], []
    for _ in range(seconds):
        for _ in range(per_s):
            asking.append(asyncio.create_task(engine.run(gate, claim)))
            await asyncio.sleep(1.0 / per_s)
        limits.append(gate.limit.value)
    await asyncio.gather(*asking)
    assert (gate.in_flight, gate.queued) == (0, 0)
    return limits, engine


def test_an_engine_of_fewer_slots_than_told_is_given_fewer() -> None:
    """Told 64, it runs 8: the limit falls to about what keeps the engine's own queue short."""
    limits, engine = run(converged(8, seed=64, ceiling=64, seconds=120, per_s=20))
    late = limits[60:]
    assert 8 <= sum(late) / len(late) <= 20
    # Untamed, 56 would wait in the engine for some 14 s each.
    waits_s = sorted(engine.waits_s[len(engine.waits_s) // 2 :])
    assert waits_s[len(waits_s) // 2] <= 2.0


def test_an_engine_of_more_slots_than_guessed_is_given_more() -> None:
    """Guessed 4, it runs 12: the limit grows until the slots are used."""
    limits, _ = run(converged(12, seed=4, ceiling=16, seconds=120, per_s=20))
    late = limits[60:]
    assert 11 <= sum(late) / len(late) <= 16


def test_an_engine_of_the_slots_that_it_has_is_used_fully() -> None:
    """Told the truth, nothing takes places away: the limit stays, and nobody waits inside the engine."""
    limits, engine = run(converged(8, seed=8, ceiling=8, seconds=120, per_s=20))
    assert min(limits) == 8
    assert max(engine.waits_s) == 0.0
