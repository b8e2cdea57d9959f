"""The circuit breaker, on a clock that moves when told."""

import random

import pytest

from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import ManualClock
from trivet.execution.breaker import Breaker, Breakers, Pass


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves when told."""
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    """A breaker with the default settings."""
    return Breaker(ExecutionSettings(), clock, random.Random(1))


def passed(breaker: Breaker) -> Pass:
    """Ask for a pass that must be granted."""
    leave = breaker.ask()
    assert leave is not None
    return leave


def trip(breaker: Breaker) -> None:
    """Fail until the breaker opens."""
    for _ in range(5):
        breaker.failed(passed(breaker))


def test_stays_closed_below_the_limits(breaker: Breaker) -> None:
    """Four failures in a row between successes do not open it."""
    for _ in range(20):
        for _ in range(5):
            breaker.succeeded(passed(breaker))
        for _ in range(4):
            breaker.failed(passed(breaker))
    assert breaker.state == "closed"


def test_opens_after_consecutive_failures(breaker: Breaker) -> None:
    """Five failures in a row close the way."""
    trip(breaker)
    assert (breaker.state, breaker.ask()) == ("open", None)


def test_opens_on_half_failing(breaker: Breaker, clock: ManualClock) -> None:
    """Half of at least ten recent requests failing opens it, though never five in a row."""
    for _ in range(4):
        breaker.succeeded(passed(breaker))
        breaker.failed(passed(breaker))
        clock.advance(0.1)
    assert breaker.state == "closed"
    breaker.succeeded(passed(breaker))
    breaker.failed(passed(breaker))
    assert breaker.state == "open"


def test_old_failures_are_forgotten(breaker: Breaker, clock: ManualClock) -> None:
    """Failures older than the rate's window do not count."""
    for _ in range(4):
        breaker.failed(passed(breaker))
    breaker.succeeded(passed(breaker))
    clock.advance(31)
    for _ in range(4):
        breaker.failed(passed(breaker))
        breaker.succeeded(passed(breaker))
    assert breaker.state == "closed"


def test_lets_one_probe_through_at_a_time(breaker: Breaker, clock: ManualClock) -> None:
    """Half-open, a second request waits for the probe's result."""
    trip(breaker)
    clock.advance(5.1)
    probe = passed(breaker)
    assert probe.probe
    assert breaker.ask() is None
    breaker.succeeded(probe)
    assert passed(breaker).probe


def test_three_probes_close_it(breaker: Breaker, clock: ManualClock) -> None:
    """Three successful probes close the breaker."""
    trip(breaker)
    clock.advance(5.1)
    for _ in range(3):
        assert breaker.state == "half_open"
        breaker.succeeded(passed(breaker))
    assert breaker.state == "closed"


def test_a_failed_probe_doubles_the_time(breaker: Breaker, clock: ManualClock) -> None:
    """Each re-opening lasts twice as long, up to the maximum."""
    trip(breaker)
    waits = []
    for _ in range(6):
        waits.append(breaker.retry_after_s or 0.0)
        clock.advance(waits[-1] + 0.01)
        breaker.failed(passed(breaker))
    for wait, nominal in zip(waits, (5, 10, 20, 40, 60, 60), strict=True):
        assert 0.8 * nominal <= wait <= nominal


def test_a_client_that_leaves_says_nothing(breaker: Breaker, clock: ManualClock) -> None:
    """A returned probe keeps the breaker half-open and free for the next."""
    trip(breaker)
    clock.advance(5.1)
    breaker.returned(passed(breaker))
    assert breaker.state == "half_open"
    assert passed(breaker).probe


def test_quick_failures_among_slow_successes(breaker: Breaker) -> None:
    """Of twenty requests under way seven fail at once: that is no row, since most may yet succeed."""
    leaves = [passed(breaker) for _ in range(20)]
    for leave in leaves[:7]:
        breaker.failed(leave)
    assert breaker.state == "closed"
    for leave in leaves[7:]:
        breaker.succeeded(leave)
    for leave in [passed(breaker) for _ in range(20)][:7]:
        breaker.failed(leave)
    assert breaker.state == "closed"


def test_failures_that_are_told_late(breaker: Breaker) -> None:
    """Failures are judged once others answered; those sent before a success make no row."""
    leaves = [passed(breaker) for _ in range(40)]
    for leave in leaves[8:]:
        breaker.succeeded(leave)
    for leave in leaves[:8]:
        breaker.failed(leave)
    assert breaker.state == "closed"
    trip(breaker)
    assert breaker.state == "open"


def test_a_dead_engine_opens_it_amid_traffic(breaker: Breaker) -> None:
    """With twenty requests under way it opens once as many have failed as are still awaited."""
    leaves = [passed(breaker) for _ in range(20)]
    for leave in leaves[:9]:
        breaker.failed(leave)
    assert breaker.state == "closed"
    breaker.failed(leaves[9])
    assert breaker.state == "open"


def test_each_pass_is_awaited_once(breaker: Breaker) -> None:
    """However a request ends, and whatever follows its first word, it is awaited no more."""
    for end in (breaker.failed, breaker.returned, breaker.succeeded):
        leave = passed(breaker)
        end(leave)
        breaker.returned(leave)
    trip(breaker)
    assert breaker.state == "open"


def test_an_odd_request_counts_once(breaker: Breaker) -> None:
    """A request that may itself be the cause of the fault opens nothing, however often it is repeated."""
    for _ in range(40):
        breaker.failed(passed(breaker), origin=1)
        breaker.succeeded(passed(breaker))
        breaker.failed(passed(breaker), origin=1)
    assert breaker.state == "closed"


def test_different_requests_count_each(breaker: Breaker) -> None:
    """Five different requests that an engine answers with a fault, with no answer between, open it."""
    for origin in range(5):
        breaker.failed(passed(breaker), origin=origin)
    assert breaker.state == "open"


def test_an_odd_request_counts_again_later(breaker: Breaker, clock: ManualClock) -> None:
    """What lies longer back than the rate's window is forgotten of a request, too."""
    for _ in range(5):
        clock.advance(31)
        breaker.failed(passed(breaker), origin=1)
    assert breaker.state == "open"


def test_an_odd_probe_is_given_back(breaker: Breaker, clock: ManualClock) -> None:
    """A probe that is known to be odd neither opens the breaker again nor keeps it from being tried."""
    for origin in range(5):
        breaker.failed(passed(breaker), origin=origin)
    clock.advance(5.1)
    breaker.failed(passed(breaker), origin=4)
    assert breaker.state == "half_open"
    assert passed(breaker).probe


def test_each_deployment_has_its_own(clock: ManualClock) -> None:
    """One endpoint's failures do not close the way to another."""
    breakers = Breakers(ExecutionSettings(), clock, random.Random(1))
    trip(breakers.of("a"))
    breakers.of("b")
    assert breakers.states() == {"a": "open", "b": "closed"}
