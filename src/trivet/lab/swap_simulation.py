"""Swaps and waits of a swap group under made-up traffic, against first come, first served.

The group is the real one, with its task; the clock, and engines that take their time, are made up. Run it
by `scripts/swap-sim`.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineError
from trivet.fleet.residency import Rules
from trivet.fleet.swap_group import SwapGroup
from trivet.lab.virtual_time import LoopClock, run


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it comes, for which model, how long it runs. Seconds."""

    at_s: float
    model: str
    runs_s: float
    leaves_after_s: float | None = None
    """Its client goes away after so long if it still waits; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """How the simulated engines behave; durations in seconds."""

    models: tuple[str, ...] = ("a", "b")
    slots: int = 64
    bring_s: float = 4.0
    release_s: float = 1.0
    warms_up: bool = False
    """Each is brought once at the start, as vLLM is."""

    @property
    def swap_s(self) -> float:
        """Return how long one swap takes: the one leaves, the other comes."""
        return self.bring_s + self.release_s


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of a traffic."""

    requests: int = 0
    swaps: int = 0
    waits_s: list[float] = field(default_factory=list)
    """From arrival to the moment when the request runs, of those that ran."""
    left: int = 0
    """Requests whose client went away while they waited."""
    most_in_memory: int = 0
    """Models that were in memory at one time, at most."""
    ended_s: float = 0.0

    @property
    def longest_wait_s(self) -> float:
        """Return the longest wait."""
        return max(self.waits_s, default=0.0)

    @property
    def mean_wait_s(self) -> float:
        """Return the mean wait."""
        return sum(self.waits_s) / len(self.waits_s) if self.waits_s else 0.0


def simulate(arrivals: Sequence[Arrival], engines: Engines, rules: Rules) -> Report:
    """Return what the swap group makes of the arrivals.

    Raises:
        NobodyActs: a request waits and nobody will ever wake it: a fault of the group.
    """
    return run(_simulate(arrivals, engines, rules))


def first_come_first_served(arrivals: Sequence[Arrival], engines: Engines) -> Report:
    """Return what serving in the order of arrival makes of them: a swap wherever the model changes.

    Neighbours in that order that want the same model run side by side, up to the slots.
    """
    report = Report(requests=len(arrivals), most_in_memory=1)
    resident, ready_s, ends_s = engines.models[0], engines.bring_s, list[float]()
    turn_s = 0.0
    for arrival in sorted(arrivals, key=lambda each: each.at_s):
        turn_s = max(turn_s, arrival.at_s)
        if arrival.model != resident:
            turn_s = max([turn_s, ready_s, *ends_s]) + engines.swap_s
            resident, ready_s, ends_s = arrival.model, turn_s, []
            report.swaps += 1
        turn_s = max(turn_s, ready_s)
        ends_s = [end_s for end_s in ends_s if end_s > turn_s]
        if len(ends_s) >= engines.slots:
            turn_s = min(ends_s)
            ends_s.remove(turn_s)
        ends_s.append(turn_s + arrival.runs_s)
        report.waits_s.append(turn_s - arrival.at_s)
        report.ended_s = max(report.ended_s, turn_s + arrival.runs_s)
    return report


def in_turn(count: int, *, gap_s: float, runs_s: float, models: Sequence[str] = ("a", "b")) -> list[Arrival]:
    """Return requests for the models in strict turn, one every `gap_s`."""
    return [Arrival(index * gap_s, models[index % len(models)], runs_s) for index in range(count)]


def at_random(count: int, *, gap_s: float, runs_s: float, seed: int, share: float = 0.5) -> list[Arrival]:
    """Return a Poisson traffic of mean gap `gap_s`; `share` of it is for model `a`, the rest for `b`."""
    dice = random.Random(seed)  # noqa: S311 - a simulation's
    arrivals, at_s = [], 0.0
    for _ in range(count):
        at_s += dice.expovariate(1 / gap_s)
        model = "a" if dice.random() < share else "b"
        arrivals.append(Arrival(at_s, model, dice.expovariate(1 / runs_s)))
    return arrivals


class Memory:
    """The GPU: counts the models in it."""

    def __init__(self) -> None:
        self.held = 0
        self.most = 0

    def take(self) -> None:
        """Count one more."""
        self.held += 1
        self.most = max(self.most, self.held)


class SimulatedModel:
    """A member that takes its time to come and to leave."""

    def __init__(self, name: str, engines: Engines, memory: Memory) -> None:
        self.name = name
        self.slots = engines.slots
        self.warms_up = engines.warms_up
        self.is_lost = False
        self.obstacle = ""
        self._engines = engines
        self._memory = memory
        self._state = EngineState.ABSENT

    async def find(self) -> EngineState:
        """Return where it is."""
        return self._state

    async def bring(self) -> None:
        """Take memory, and time."""
        self._memory.take()
        await asyncio.sleep(self._engines.bring_s)
        self._state = EngineState.READY

    async def release(self) -> EngineState:
        """Give the memory back after a while."""
        await asyncio.sleep(self._engines.release_s)
        self._memory.held -= 1
        self._state = EngineState.SLEEPING
        return self._state

    def expected_s(self, state: EngineState) -> float:
        """Return how long it takes to come."""
        return self._engines.bring_s if state in (EngineState.SLEEPING, EngineState.ABSENT) else 0.0


async def _simulate(arrivals: Sequence[Arrival], engines: Engines, rules: Rules) -> Report:
    report, memory = Report(requests=len(arrivals)), Memory()
    models = [SimulatedModel(name, engines, memory) for name in engines.models]
    group = SwapGroup("simulated", models, rules, LoopClock())
    # Requests come while the first model is being brought, too.
    requests = [asyncio.create_task(_request(arrival, group, report)) for arrival in arrivals]
    await group.begin()
    acting = asyncio.create_task(group.run())
    await asyncio.gather(*requests)
    report.swaps, report.most_in_memory = group.swaps, memory.most
    report.ended_s = asyncio.get_running_loop().time()
    acting.cancel()
    await asyncio.gather(acting, return_exceptions=True)
    return report


async def _request(arrival: Arrival, group: SwapGroup, report: Report) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(arrival.at_s)
    asking = asyncio.create_task(group.place(arrival.model, wait_s=3600.0))
    if arrival.leaves_after_s is not None:
        loop.call_later(arrival.leaves_after_s, asking.cancel)
    try:
        place = await asking
    except (asyncio.CancelledError, EngineError):
        report.left += 1
        return
    with place:
        report.waits_s.append(loop.time() - arrival.at_s)
        await asyncio.sleep(arrival.runs_s)
