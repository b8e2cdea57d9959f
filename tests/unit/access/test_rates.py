"""Rate limits: the strictest wins, waits are honest, estimates are corrected, nothing leaks."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.access import RateLimit, RateLimits
from trivet.domain.clock import ManualClock
from trivet.domain.errors import RateLimitExceeded
from trivet.domain.scopes import Scope
from trivet.storage import Database

ACME, SEARCH, ANA = Scope("acme"), Scope("acme.search"), Scope("acme.search.ana")


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock()


@pytest.fixture
def database() -> Iterator[Database]:
    """Give a store in memory."""
    with Database.open(None) as opened:
        yield opened


@pytest.fixture
def rates(database: Database, clock: ManualClock) -> RateLimits:
    """Give rate limits, none of them set."""
    return RateLimits(database, clock)


def test_nothing_is_limited_by_itself(rates: RateLimits) -> None:
    """Without limits all pass, and no header speaks of them."""
    assert [rates.admit(ANA, 10**9).headers for _ in range(3)] == [{}, {}, {}]


def test_requests_of_a_minute_are_counted_on_every_level(rates: RateLimits, clock: ManualClock) -> None:
    """The limit of the organisation binds its users; the wait told is the wait that helps."""
    rates.set_limit(RateLimit(scope=ACME, requests_per_minute=2), author="a")
    rates.set_limit(RateLimit(scope=ANA, requests_per_minute=60), author="a")
    first = rates.admit(ANA, 1)
    assert first.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    rates.admit(SEARCH, 1)
    with pytest.raises(RateLimitExceeded) as refused:
        rates.admit(ANA, 1)
    assert (refused.value.details["scope"], refused.value.details["rate"]) == ("acme", "requests_per_minute")
    assert refused.value.retry_after_s == pytest.approx(30)
    rates.admit(Scope("globex"), 1)
    clock.advance(29.9)
    with pytest.raises(RateLimitExceeded):
        rates.admit(ANA, 1)
    clock.advance(0.2)
    rates.admit(ANA, 1)


def test_tokens_are_estimated_and_then_corrected(rates: RateLimits, clock: ManualClock) -> None:
    """What was not used comes back; what was used beyond the estimate is owed."""
    rates.set_limit(RateLimit(scope=ACME, tokens_per_minute=600), author="a")
    admitted = rates.admit(ACME, 500)
    with pytest.raises(RateLimitExceeded) as refused:
        rates.admit(ACME, 200)
    assert refused.value.retry_after_s == pytest.approx(10)
    admitted.end(100)
    admitted.end(0)
    over = rates.admit(ACME, 200)
    over.end(800)
    with pytest.raises(RateLimitExceeded) as refused:
        rates.admit(ACME, 100)
    assert refused.value.retry_after_s == pytest.approx(40)
    clock.advance(90)
    rates.admit(ACME, 10**6).end(0)


def test_requests_at_once_are_bounded(rates: RateLimits) -> None:
    """As many as are allowed run; one that ends makes room, however it ends."""
    rates.set_limit(RateLimit(scope=SEARCH, concurrent=1), author="a")
    running = rates.admit(ANA, 1)
    with pytest.raises(RateLimitExceeded, match="1 request at once"):
        rates.admit(SEARCH, 1)
    running.end(None)
    running.end(None)
    rates.admit(SEARCH, 1)


def test_a_rate_of_zero_lets_nothing_pass(rates: RateLimits) -> None:
    """Then no wait is promised."""
    for limit in (RateLimit(scope=ACME, requests_per_minute=0), RateLimit(scope=ACME, concurrent=0)):
        rates.set_limit(limit, author="a")
        with pytest.raises(RateLimitExceeded) as refused:
            rates.admit(ANA, 1)
        assert refused.value.retry_after_s is None


def test_limits_are_kept_changed_and_cleared(
    database: Database, rates: RateLimits, clock: ManualClock
) -> None:
    """Another opening finds them; a change keeps what was used; what is cleared limits nobody."""
    rates.set_limit(RateLimit(scope=ACME, requests_per_minute=1), author="a")
    rates.admit(ANA, 1)
    rates.set_limit(RateLimit(scope=ACME, requests_per_minute=2, concurrent=5), author="b")
    other = RateLimits(database, clock)
    assert other.limits() == rates.limits() == [RateLimit(scope=ACME, requests_per_minute=2, concurrent=5)]
    rates.admit(ANA, 1)
    with pytest.raises(RateLimitExceeded):
        rates.admit(ANA, 1)
    rates.clear(ACME)
    rates.admit(ANA, 1)
    other.refresh()
    assert other.limits() == []


def test_the_wait_told_is_enough() -> None:
    """Whoever waits as long as was told is let in, if nobody else comes."""
    step = st.tuples(st.floats(0, 30), st.integers(0, 400), st.integers(0, 400))
    with Database.open(None) as database:

        @given(size=st.integers(1, 1000), steps=st.lists(step, min_size=1, max_size=40))
        def check(size: int, steps: list[tuple[float, int, int]]) -> None:
            clock = ManualClock()
            rates = RateLimits(database, clock)
            rates.clear(ACME)
            rates.set_limit(RateLimit(scope=ACME, tokens_per_minute=size), author="a")
            for pause_s, estimate, used in steps:
                clock.advance(pause_s)
                try:
                    rates.admit(ANA, estimate).end(used)
                except RateLimitExceeded as refused:
                    clock.advance((refused.retry_after_s or 0.0) + 1e-6)
                    rates.admit(ANA, estimate).end(used)

        check()
