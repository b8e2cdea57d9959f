"""Where a request goes next: three kinds of tries, pauses, and windows, on a clock that moves when told."""

import random

import pytest

from tests.unit.metering.makers import HEAVY, LIGHT, STANDARD, decision, deployment
from trivet.domain.clock import ManualClock
from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineLoading,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
)
from trivet.domain.tiers import Deployment
from trivet.execution.conditions import DOUBTFUL_AFTER, Conditions
from trivet.execution.itinerary import JITTER_S, Itinerary, Stop
from trivet.execution.retry_budget import RetryBudgets

BROKEN = EngineBroken("It failed.", status=500)
NEAR, MIDDLE, FAR = deployment("near", LIGHT), deployment("middle", STANDARD), deployment("far", HEAVY)


class Road:
    """What all requests share, and a clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.conditions = Conditions(self.clock, longest_busy_s=60.0)
        self.budgets = RetryBudgets(self.clock, {})
        self.dice = random.Random(1)

    def way(self, *candidates: Deployment, longest_pause_s: float = 30.0) -> Itinerary:
        """Return the way of a new request."""
        chosen = decision(*candidates).candidates
        return Itinerary(chosen, self.conditions, self.budgets, self.dice, longest_pause_s)

    def walk(
        self, way: Itinerary, errors: dict[str, EngineError], *, left_s: float = 100.0
    ) -> list[tuple[str, float]]:
        """Go on until there is nowhere to go, every stop failing; return the stops with their pauses."""
        stops: list[tuple[str, float]] = []
        while (stop := way.following(left_s, begun=bool(stops))) is not None:
            stops.append((stop.deployment.name, stop.pause_s))
            self.clock.advance(stop.pause_s)
            error = errors.get(stop.deployment.name, BROKEN)
            self.conditions.failed(stop.deployment.name, error)
            way.failed(stop, error)
        return stops

    def spend(self, *tiers: str) -> None:
        """Leave nothing of the tiers' retry budgets."""
        for tier in tiers:
            while self.budgets.of(tier).take():
                pass

    def make_doubtful(self, *names: str) -> None:
        """Let the endpoints have failed lately."""
        for name in names:
            for _ in range(DOUBTFUL_AFTER):
                self.conditions.failed(name, BROKEN)


@pytest.fixture
def road() -> Road:
    """A road with nothing on it yet."""
    return Road()


def names(stops: list[tuple[str, float]]) -> list[str]:
    """Return where the stops are."""
    return [name for name, _ in stops]


def test_in_order_once_each(road: Road) -> None:
    """Faults that no wait cures are not tried again, and a fallback is made at once."""
    assert road.walk(road.way(NEAR, MIDDLE, FAR), {}) == [("near", 0.0), ("middle", 0.0), ("far", 0.0)]


def test_only_the_last_one_is_last(road: Road) -> None:
    """As long as an untried candidate is left a plain answer may not take all the time."""
    way = road.way(NEAR, FAR)
    stops = [way.following(9.0, begun=False), way.following(9.0, begun=True)]
    assert stops == [Stop(NEAR, 0.0, last=False), Stop(FAR, 0.0, last=True)]


def test_a_fallback_to_an_endpoint_that_works_is_free(road: Road) -> None:
    """With every retry budget spent the candidate that works is reached all the same."""
    road.spend("light", "standard", "heavy")
    road.make_doubtful("near", "middle")
    assert names(road.walk(road.way(NEAR, MIDDLE, FAR), {})) == ["near", "far"]


def test_when_all_fail_the_budget_bounds_the_load(road: Road) -> None:
    """A thousand requests at engines that all fail ask little more than a tenth more than once."""
    asked = sum(len(road.walk(road.way(NEAR, MIDDLE, FAR), {})) for _ in range(1000))
    floor = 2 * 10 + 2 * DOUBTFUL_AFTER
    assert 1000 < asked <= 1000 + floor


def test_the_first_try_is_always_made(road: Road) -> None:
    """Neither doubt nor a spent budget keeps a request from asking one engine."""
    road.spend("light")
    road.make_doubtful("near")
    assert names(road.walk(road.way(NEAR), {})) == ["near"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (EngineUnavailable("Refused."), True),
        (EngineBusy("Full.", status=503), True),
        (EngineBusy("Limited.", status=429), True),
        (EngineBusy("Early.", status=425), True),
        (EngineLoading("Loading.", status=503), True),
        (EngineBroken("Gateway.", status=502), True),
        (EngineTimeout("Slow.", status=504), True),
        (EngineTimeout("Slow.", status=408), True),
        (EngineTimeout("Silent."), False),
        (EngineLoading("Not within the time."), False),
        (EngineBroken("Failed.", status=500), False),
        (EngineBroken("Closed."), False),
        (EngineBroken("Garbage.", status=200), False),
        (EngineIncapable("Cannot.", status=500), False),
        (ContextOverflow("Long.", status=400), False),
    ],
)
def test_what_is_tried_twice(road: Road, error: EngineError, again: bool) -> None:
    """The same engine gets a second chance after faults that a wait may cure, after a jittered pause."""
    stops = road.walk(road.way(NEAR), {"near": error})
    assert names(stops) == ["near", "near"][: 1 + again]
    assert all(0.0 <= pause_s <= JITTER_S for _, pause_s in stops)


def test_pauses_begin_at_zero_and_differ(road: Road) -> None:
    """Full jitter: requests that failed together do not come back together."""
    busy = EngineBusy("Full.", status=503)
    pauses = []
    for _ in range(9):
        pauses.append(road.walk(road.way(NEAR), {"near": busy})[-1][1])
        road.conditions.of("near").answered()
    assert len(set(pauses)) == 9
    assert min(pauses) < JITTER_S / 3 < 2 * JITTER_S / 3 < max(pauses)


def test_others_come_before_a_second_try(road: Road) -> None:
    """A second try is the last resort, once in a request, and needs a try of the budget."""
    busy = EngineBusy("Full.", status=503)
    assert names(road.walk(road.way(NEAR, FAR), {"near": busy, "far": busy})) == ["near", "far", "near"]
    road.spend("light")
    assert names(road.walk(road.way(NEAR, FAR), {"near": busy, "far": BROKEN})) == ["near", "far"]


def test_retry_after_is_obeyed(road: Road) -> None:
    """The second try comes when the engine said, or a little later; never earlier."""
    stops = road.walk(road.way(NEAR), {"near": EngineBusy("Limited.", status=429, retry_after_s=7.0)})
    assert names(stops) == ["near", "near"]
    assert 7.0 <= stops[1][1] <= 8.0


@pytest.mark.parametrize(("left_s", "longest_pause_s"), [(7.1, 30.0), (100.0, 6.9)])
def test_retry_after_beyond_the_time_is_told(road: Road, left_s: float, longest_pause_s: float) -> None:
    """Where the deadline, or the operator's patience, ends before, nothing is waited for."""
    way = road.way(NEAR, longest_pause_s=longest_pause_s)
    errors: dict[str, EngineError] = {"near": EngineBusy("Limited.", status=429, retry_after_s=7.0)}
    assert names(road.walk(way, errors, left_s=left_s)) == ["near"]


def test_a_busy_endpoint_is_asked_after_the_others(road: Road) -> None:
    """Who asked to be left alone is left alone by the next requests, too, until an answer or the time."""
    road.conditions.failed("near", EngineBusy("Limited.", status=429, retry_after_s=7.0))
    stops = road.walk(road.way(NEAR, MIDDLE, FAR), {})
    assert names(stops) == ["middle", "far", "near"]
    assert 7.0 <= stops[2][1] <= 8.0
    assert names(road.walk(road.way(NEAR, MIDDLE), {})) == ["near", "middle"]


def test_a_busy_endpoint_that_is_alone(road: Road) -> None:
    """It is waited for if there is time; else the caller is told for how long it is busy."""
    road.conditions.failed("near", EngineBusy("Limited.", status=429, retry_after_s=7.0))
    way = road.way(NEAR)
    assert way.following(5.0, begun=False) is None
    assert isinstance(way.left_alone, EngineBusy)
    assert way.left_alone.retry_after_s == pytest.approx(7.0)
    stop = road.way(NEAR).following(60.0, begun=False)
    assert stop is not None
    assert 7.0 <= stop.pause_s <= 8.0


def test_retry_after_is_not_believed_for_ever(road: Road) -> None:
    """An engine that asks for a day is asked again after a minute; an answer ends the rest at once."""
    day = EngineBusy("Limited.", status=429, retry_after_s=86_400.0)
    road.conditions.failed("near", day)
    assert road.conditions.of("near").busy_s == pytest.approx(60.0)
    road.clock.advance(60.0)
    assert road.conditions.of("near").busy_s == 0.0
    road.conditions.failed("near", day)
    road.conditions.of("near").answered()
    assert road.conditions.of("near").busy_s == 0.0


@pytest.mark.parametrize(
    "error", [Overloaded("No turn.", retry_after_s=3.0), EngineLoading("Not within the time.")]
)
def test_what_did_not_get_its_turn_is_come_back_to(road: Road, error: EngineError) -> None:
    """It was not asked; so once the others have failed it is, for all of the time, and without a budget."""
    road.spend("light", "standard", "heavy")
    way = road.way(NEAR, FAR)
    stops: list[Stop] = []
    while (stop := way.following(9.0, begun=bool(stops))) is not None:
        stops.append(stop)
        way.failed(stop, error if stop.deployment is NEAR else BROKEN)
    assert stops == [Stop(NEAR, 0.0, last=False), Stop(FAR, 0.0, last=True), Stop(NEAR, 0.0, last=True)]


def windowed(name: str, context_tokens: int) -> Deployment:
    """Return a deployment with a window."""
    found = deployment(name, LIGHT)
    return Deployment(
        **{each: getattr(found, each) for each in found.__slots__} | {"context_tokens": context_tokens}
    )


def test_an_overflow_goes_where_there_is_more_room(road: Road) -> None:
    """Windows that are no larger are passed over."""
    way = road.way(*(windowed(f"w{tokens}", tokens) for tokens in (1000, 500, 1000, 2000)))
    overflow = ContextOverflow("Long.", status=400)
    assert names(road.walk(way, {"w1000": overflow})) == ["w1000", "w2000"]


def test_the_engines_word_on_its_window_counts(road: Road) -> None:
    """Where less is served than is configured, a window between both may still fit."""
    way = road.way(*(windowed(f"w{tokens}", tokens) for tokens in (4000, 200, 500)))
    overflow = ContextOverflow("Long.", status=400, details={"context_tokens": 256})
    assert names(road.walk(way, {"w4000": overflow})) == ["w4000", "w500"]


def test_what_the_request_itself_is_at_fault_for_casts_no_doubt(road: Road) -> None:
    """An engine that refuses a request works."""
    for _ in range(9):
        road.conditions.failed("far", ContextOverflow("Long.", status=400))
        road.conditions.failed("far", EngineIncapable("Cannot.", status=500))
    road.spend("heavy")
    assert names(road.walk(road.way(NEAR, FAR), {})) == ["near", "far"]
