"""Which candidate takes a request: one with room before the queue, never a lesser one while waiting helps."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from trivet.config.admission_settings import AdmissionSettings
from trivet.domain.decisions import Candidate, Complexity, Decision
from trivet.domain.errors import Overloaded
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment, Tier
from trivet.execution.admission import Admission, Claim, Entry
from trivet.execution.boarding import find_place
from trivet.execution.chain import Chain
from trivet.execution.run import Run
from trivet.lab.virtual_time import LoopClock, run
from trivet.metering import Metrics

TIERS = [
    Tier(name=name, order=order, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0)
    for order, name in enumerate(("light", "standard", "heavy"))
]
CLAIM = Claim(scope=Scope("acme"), priority="interactive", work=100)


def candidate(name: str, tier: int, **terms: float) -> Candidate:
    """Return a candidate with one slot."""
    deployment = Deployment(
        name=name,
        tier=TIERS[tier],
        engine="vllm",
        model="m",
        transport="relay",
        url="http://x",
        context_tokens=100,
        slots=1,
        devices=(),
    )
    return Candidate(deployment, 0.0, terms)


def decision(*candidates: Candidate) -> Decision:
    """Return a decision with these candidates."""
    return Decision(
        decision_id="d",
        complexity=Complexity(0.5, {}, "standard"),
        confidence=1.0,
        policy="normal",
        strategy="complexity",
        reasons=(),
        candidates=candidates,
    )


TARGET = candidate("target", 1)
TWIN = candidate("twin", 1)
HIGHER = candidate("higher", 2)
LOWER = candidate("lower", 0, downgrade=-4.0)
ALL = decision(TARGET, TWIN, HIGHER, LOWER)


def admission(*, down: tuple[str, ...] = (), **settings: Any) -> Admission:
    """Return an admission to engines that all take requests but those that are down."""
    waits = Metrics().queue_wait
    return Admission(
        AdmissionSettings(**settings), LoopClock(), takes=lambda one: one.name not in down, waits=waits
    )


def fill(doors: Admission, *candidates: Candidate) -> list[Any]:
    """Take the one place of each."""
    return [doors.gate(each.deployment).take(CLAIM) for each in candidates]


async def placed(doors: Admission, wanted: Decision, waits: list[str] | None = None) -> tuple[str, Decision]:
    """Return where a request gets its place, and the decision with it."""
    noted = waits if waits is not None else []
    with Entry(CLAIM) as entry:
        found = await doors.find_place(entry, wanted, left_s=300.0, on_wait=lambda: noted.append("waits"))
        assert entry.ticket is None or entry.name == found.deployment.name
        return entry.name, found


def virtually(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run on the virtual clock."""
    run(work())


def test_the_first_with_room_takes_it() -> None:
    """In the order of the decision; what was passed over is said."""

    async def work() -> None:
        doors = admission()
        assert (await placed(doors, ALL)) == ("target", ALL)
        fill(doors, TARGET)
        name, found = await placed(doors, ALL)
        assert (name, [each.deployment.name for each in found.candidates]) == (
            "twin",
            ["twin", "target", "higher", "lower"],
        )
        assert found.reasons[-1].text == "target is full: twin is tried first."
        fill(doors, TWIN)
        assert (await placed(doors, ALL))[0] == "higher"

    virtually(work)


def test_a_lower_tier_is_the_last_resort() -> None:
    """It takes nothing while waiting helps, but rather than refuse; where a budget prefers it, at once."""

    async def work() -> None:
        doors = admission(max_wait_s=5.0)
        tickets = fill(doors, TARGET, TWIN, HIGHER)
        waits: list[str] = []
        waiting = asyncio.create_task(placed(doors, ALL, waits))
        await asyncio.sleep(2.0)
        assert waits == ["waits"]
        tickets[0].answered(0, 1)
        tickets[0].release()
        name, found = await waiting
        assert (name, found.reasons[-1].text) == ("target", "It waited 2.0 s for its turn.")
        # Each is known to take ten seconds now: all queues are too long.
        for each in (TARGET, TWIN, HIGHER):
            gate = doors.gate(each.deployment)
            if each is TARGET:
                tickets[0] = gate.take(CLAIM)
            await asyncio.sleep(0)
        await asyncio.sleep(10.0)
        for index, ticket in enumerate(tickets):
            ticket.answered(0, 1)
            ticket.release()
            tickets[index] = doors.gate((TARGET, TWIN, HIGHER)[index].deployment).take(CLAIM)
        assert (await placed(doors, ALL))[0] == "lower"
        frugal = decision(TARGET, LOWER, candidate("dear", 2, budget=-6.0))
        assert (await placed(doors, frugal))[0] == "lower"

    virtually(work)


def test_when_all_are_full_the_least_wait_is_told() -> None:
    """The refusal counts at the gate that would have been passed first."""

    async def work() -> None:
        doors = admission(max_wait_s=5.0)
        for seconds, each in ((10.0, TARGET), (20.0, TWIN)):
            (ticket,) = fill(doors, each)
            await asyncio.sleep(seconds)
            ticket.answered(0, 1)
            ticket.release()
        fill(doors, TARGET, TWIN)
        with pytest.raises(Overloaded) as refused:
            await placed(doors, decision(TWIN, TARGET))
        assert refused.value.retry_after_s == pytest.approx(10.0)
        assert doors.gate(TARGET.deployment).shed["interactive"] == 1
        assert doors.gate(TWIN.deployment).shed["interactive"] == 0

    virtually(work)


def test_what_is_not_in_memory_is_left_to_the_chain() -> None:
    """No ticket for a first candidate that has to be waited for; one further down is passed over."""

    async def work() -> None:
        assert (await placed(admission(down=("target",)), ALL)) == ("", ALL)
        doors = admission(down=("twin",))
        fill(doors, TARGET)
        assert (await placed(doors, ALL))[0] == "higher"

    virtually(work)


def test_an_entry_gives_back_what_is_not_used() -> None:
    """Unused, or for another deployment than the one that is tried."""

    async def work() -> None:
        doors = admission()
        gate = doors.gate(TARGET.deployment)
        with Entry(CLAIM) as entry:
            await doors.find_place(entry, ALL, left_s=9.0, on_wait=unheard)
            assert gate.in_flight == 1
        assert gate.in_flight == 0
        with Entry(CLAIM) as entry:
            await doors.find_place(entry, ALL, left_s=9.0, on_wait=unheard)
            assert entry.take("twin") is None
            assert gate.in_flight == 0
            other = await doors.place(entry, TWIN.deployment, left_s=9.0, last=False, on_wait=unheard)
            assert other is not None
            with pytest.raises(Overloaded):
                await doors.place(entry, TWIN.deployment, left_s=9.0, last=False, on_wait=unheard)
            other.release()

    virtually(work)


def unheard() -> None:
    """Tell nobody."""


class Doors:
    """What `find_place` asks of the chain, at the gates of an admission."""

    def __init__(self, doors: Admission) -> None:
        self._doors = doors

    async def find_place(self, going: "Going") -> Decision:
        """Look for a place."""
        return await self._doors.find_place(going.entry, going.decision, left_s=300.0, on_wait=unheard)


class Going:
    """What `find_place` asks of a run: its entry, and the decision to go by."""

    def __init__(self, entry: Entry, wanted: Decision) -> None:
        self.entry = entry
        self.decision = wanted


@pytest.mark.parametrize(
    ("waits_s", "anew", "expected"),
    [
        (0.5, decision(HIGHER), ["target", "twin"]),
        (2.0, decision(TWIN, TARGET), ["target", "twin"]),
        (2.0, decision(HIGHER), ["higher"]),
    ],
)
def test_after_a_longer_wait_it_is_decided_anew(waits_s: float, anew: Decision, expected: list[str]) -> None:
    """The place is kept if the new decision wants it, and given back if not."""

    async def work() -> None:
        doors = admission()
        first, second = fill(doors, TARGET, TWIN)
        with Entry(CLAIM) as entry:
            going = Going(entry, decision(TARGET, TWIN))
            looking = asyncio.create_task(
                find_place(cast("Run", going), cast("Chain", Doors(doors)), again=lambda: anew)
            )
            await asyncio.sleep(waits_s)
            first.release()
            await looking
            assert [each.deployment.name for each in going.decision.candidates] == expected
            assert entry.name == expected[0]
            assert going.decision.decision_id == "d"
        second.release()
        gates = [doors.gate(each.deployment) for each in (TARGET, TWIN, HIGHER)]
        assert [gate.in_flight for gate in gates] == [0, 0, 0]

    virtually(work)
