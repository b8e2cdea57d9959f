"""Which model shall be in memory: the decisions one by one, then whole traffics on a virtual clock."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import scaled
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineError
from trivet.fleet.residency import Member, Move, Rules, decide, expected_wait_s
from trivet.fleet.swap_group import SwapGroup
from trivet.lab.swap_simulation import (
    Arrival,
    Engines,
    Memory,
    SimulatedModel,
    first_come_first_served,
    in_turn,
    simulate,
)
from trivet.lab.virtual_time import LoopClock, NobodyActs, run

SLACK_S = 0.002
"""What timers may be late, twice."""
RULES = Rules(minimum_residency_s=10.0, max_wait_s=30.0)


def member(name: str, state: EngineState = EngineState.SLEEPING, **fields: Any) -> Member:
    """Return a member that comes in 4 s."""
    return Member(name=name, state=state, bring_s=4.0, **fields)


def resident(**fields: Any) -> Member:
    """Return model a, in memory."""
    return member("a", EngineState.READY, **fields)


def asked(name: str = "b", since_s: float = 0.0, **fields: Any) -> Member:
    """Return a sleeping member that one request waits for."""
    return member(name, waiting=1, waits_since_s=since_s, **fields)


def test_with_nobody_in_memory_the_longest_waited_for_comes() -> None:
    """Of two that are waited for, the earlier."""
    step = decide([asked("a", 2.0), asked("b", 1.0)], RULES, 3.0)
    assert (step.move, step.member) == (Move.BRING, "b")


def test_nobody_comes_unasked() -> None:
    """Without requests everything stays as it is, in memory or not."""
    assert decide([resident(), member("b")], RULES, 99.0).move is Move.STAY
    assert decide([member("a"), member("b")], RULES, 99.0).member is None


def test_the_resident_stays_for_its_minimum_although_idle() -> None:
    """It became ready at 0 and leaves at 10, not before."""
    members = [resident(), asked(since_s=2.0)]
    early = decide(members, RULES, 9.9)
    assert (early.move, early.look_again_s) == (Move.STAY, 10.0)
    assert decide(members, RULES, 10.0).move is Move.RELEASE


def test_after_its_last_request_it_stays_as_long_again_if_it_is_often_asked_for() -> None:
    """Idle since 20: until 30 if asked for every five seconds, else no longer."""
    often = [resident(idle_since_s=20.0, gap_s=5.0), asked(since_s=19.0)]
    rarely = [resident(idle_since_s=20.0, gap_s=15.0), asked(since_s=19.0)]
    assert decide(often, RULES, 21.0).look_again_s == 30.0
    assert decide(rarely, RULES, 21.0).move is Move.RELEASE


def test_a_busy_resident_stays_until_the_others_limit() -> None:
    """The other's request came at 5; what runs takes 3 s; so nothing new begins from 32 on."""
    members = [resident(running=2, waiting=3, drain_s=3.0), asked(since_s=5.0)]
    assert decide(members, RULES, 31.9).look_again_s == 32.0
    assert decide(members, RULES, 32.0).move is Move.DRAIN


def test_a_drain_is_not_taken_back_for_later_requests_but_when_nobody_waits_any_more() -> None:
    """Draining goes on before the limit too; the other's client leaves, and it ends."""
    draining = member("a", EngineState.DRAINING, running=1, waiting=9)
    assert decide([draining, asked(since_s=30.0)], RULES, 31.0).move is Move.DRAIN
    assert decide([draining, member("b")], RULES, 31.0).move is Move.STAY


def test_who_waits_for_the_second_swap_is_thought_of_before_the_first() -> None:
    """Two wait since 0 and 1; the second's swap begins after the first's 4 s, within its own limit."""
    members = [resident(running=1, waiting=1), asked("b", 0.0), asked("c", 1.0)]
    assert decide(members, RULES, 0.0).look_again_s == 27.0


def test_a_deadline_comes_before_the_longest_wait() -> None:
    """A request that must be served by 12 has its swap begun in time."""
    members = [resident(running=1, waiting=1), asked(since_s=0.0, due_s=8.0)]
    assert decide(members, RULES, 0.0).look_again_s == 8.0


def test_very_long_runs_do_not_end_a_residency_before_it_has_begun() -> None:
    """Requests that run for minutes get half of the longest wait as notice, not more."""
    members = [resident(running=1, waiting=1, drain_s=300.0), asked(since_s=0.0)]
    assert decide(members, RULES, 0.0).look_again_s == 15.0


def test_while_a_swap_is_under_way_nothing_else_is_decided() -> None:
    """Whoever waits."""
    members = [member("a", EngineState.LOADING, moving=True), asked(since_s=0.0)]
    assert decide(members, RULES, 99.0).move is Move.STAY


@pytest.mark.parametrize(
    ("members", "wait_s"),
    [
        ([member("b"), resident()], 14.0),
        ([member("b"), resident(idle_since_s=-20.0, ready_since_s=-20.0)], 4.0),
        ([member("b"), resident(running=1, drain_s=2.0)], 34.0),
        ([member("b"), member("a")], 4.0),
        ([member("b", EngineState.READY), member("a")], 0.0),
        ([member("b", EngineState.LOADING, moving=True), member("a")], 4.0),
        ([asked(since_s=-25.0), resident(running=1, drain_s=2.0)], 9.0),
        ([member("b", EngineState.DRAINING, running=1), asked("a")], 34.0),
    ],
)
def test_the_expected_wait(members: list[Member], wait_s: float) -> None:
    """From a resident that may leave in 10 s, at once, at its limit; of a request that waits already."""
    assert expected_wait_s(members, RULES, 0.0, "b") == pytest.approx(wait_s)


@settings(max_examples=scaled(60), deadline=None)
@given(
    gap_s=st.floats(0.1, 5.0),
    bring_s=st.floats(0.0, 20.0),
    release_s=st.floats(0.0, 5.0),
    runs_s=st.floats(0.01, 4.0),
)
def test_models_asked_for_in_turn_are_not_swapped_in_turn(
    gap_s: float, bring_s: float, release_s: float, runs_s: float
) -> None:
    """At most a fifth of the swaps of first come, first served; nobody waits beyond max_wait and one swap.

    Where a swap there and the first batch fill max_wait, what runs has to end within the swap back.
    """
    engines = Engines(bring_s=bring_s, release_s=release_s)
    arrivals = in_turn(150, gap_s=gap_s, runs_s=runs_s)
    found = simulate(arrivals, engines, RULES)
    assert 5 * found.swaps <= first_come_first_served(arrivals, engines).swaps
    ending_s = runs_s if engines.swap_s + 2 * runs_s > RULES.max_wait_s else 0.0
    assert found.longest_wait_s <= RULES.max_wait_s + engines.swap_s + ending_s + SLACK_S
    assert found.most_in_memory == 1
    assert len(found.waits_s) == len(arrivals)


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.floats(0.0, 120.0),
        st.sampled_from("abc"),
        st.floats(0.0, 20.0),
        st.none() | st.floats(0.0, 60.0),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=scaled(120), deadline=None)
@given(
    arrivals=ARRIVALS,
    slots=st.integers(1, 8),
    bring_s=st.floats(0.0, 60.0),
    release_s=st.floats(0.0, 10.0),
    warms_up=st.booleans(),
)
def test_everybody_is_served_and_never_two_are_in_memory(
    arrivals: list[Arrival], slots: int, bring_s: float, release_s: float, warms_up: bool
) -> None:
    """Whatever comes and goes away again, for three models: nobody starves and no wake-up is lost."""
    engines = Engines(
        models=("a", "b", "c"), slots=slots, bring_s=bring_s, release_s=release_s, warms_up=warms_up
    )
    found = simulate(arrivals, engines, RULES)
    assert found.most_in_memory == 1
    assert len(found.waits_s) + found.left == len(arrivals)
    assert found.left <= sum(arrival.leaves_after_s is not None for arrival in arrivals)


def test_three_models_asked_for_in_turn_keep_the_bound() -> None:
    """With three, too, nobody waits beyond max_wait and one swap, as long as the swaps fit in."""
    engines = Engines(models=("a", "b", "c"), bring_s=3.0, release_s=1.0)
    arrivals = in_turn(300, gap_s=0.7, runs_s=1.0, models=engines.models)
    found = simulate(arrivals, engines, RULES)
    assert found.longest_wait_s <= RULES.max_wait_s + engines.swap_s + SLACK_S
    assert 5 * found.swaps <= first_come_first_served(arrivals, engines).swaps


@pytest.mark.parametrize(("wishes_s", "comes_at_s"), [(120.0, 34.0), (10.0, None)])
def test_a_model_whose_requests_others_serve_gets_its_turn(wishes_s: float, comes_at_s: float | None) -> None:
    """While they keep coming it comes after max_wait although nobody waits; if they cease, it does not."""

    async def story() -> float | None:
        memory = Memory()
        models = [SimulatedModel(name, Engines(), memory) for name in ("a", "b")]
        group = SwapGroup("it", models, RULES, LoopClock())
        await group.begin()
        acting = asyncio.create_task(group.run())
        loop = asyncio.get_running_loop()
        came_at_s = None
        for second in range(120):
            with contextlib.suppress(EngineError):
                if second < wishes_s:
                    group.wish("b")
                # The other model is busy all the time.
                with await group.place("a", wait_s=0.5):
                    await asyncio.sleep(1.0)
            if came_at_s is None and group.state("b") is EngineState.LOADING:
                came_at_s = loop.time()
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
        assert memory.most == 1
        return came_at_s

    found = run(story())
    assert (found is None) == (comes_at_s is None)
    if found is not None and comes_at_s is not None:
        assert found == pytest.approx(comes_at_s, abs=2.0)


def test_a_lost_wake_up_shows_itself() -> None:
    """The virtual clock itself: a task that waits for what nobody will do is a fault, not a hang."""

    async def forlorn() -> None:
        await asyncio.sleep(5.0)
        await asyncio.Event().wait()

    with pytest.raises(NobodyActs):
        run(forlorn())
