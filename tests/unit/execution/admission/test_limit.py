"""The in-flight limit: grows by one a round, shrinks by a fifth, never leaves its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from trivet.execution.admission.limit import InFlightLimit

MS = 1_000_000


def answer(
    limit: InFlightLimit, at_ms: int, took_ms: int, *, in_flight: int = 8, in_use: bool = True
) -> None:
    """Let a stream that was sent at `at_ms` have its first token after `took_ms`."""
    limit.answered(
        dispatched_ns=at_ms * MS,
        first_token_ns=(at_ms + took_ms) * MS,
        prompt_bytes=1000,
        in_flight=in_flight,
        in_use=in_use,
    )


def test_a_limit_in_use_grows_by_one_a_round() -> None:
    """As many ordinary answers as the limit let it grow by one, up to the ceiling; unused it stays."""
    limit = InFlightLimit(seed=4, ceiling=6, tolerance=2.0)
    for index in range(4):
        answer(limit, index, 100, in_use=False)
    unused = limit.value
    values = []
    for index in range(5 * 6):
        answer(limit, 10 + index, 100)
        values.append(limit.value)
    assert (unused, values[3], values[4], values[-1]) == (4, 4, 5, 6)


def test_slow_first_tokens_shrink_it_once_a_round() -> None:
    """Answers that were sent before it shrank suffered under the old limit: they shrink it no further."""
    limit = InFlightLimit(seed=100, ceiling=100, tolerance=2.0)
    answer(limit, 0, 100, in_flight=1)
    for _ in range(60):
        answer(limit, 1, 1000, in_flight=100)
    once = limit.value
    for _ in range(60):
        answer(limit, 2000, 1000, in_flight=80)
    assert (once, limit.value, limit.decreases) == (80, 64, 2)


def test_one_slow_answer_is_no_load() -> None:
    """A single straggler, or a delay too short to mean anything, does not shrink it."""
    limit = InFlightLimit(seed=8, ceiling=8, tolerance=2.0)
    for index in range(20):
        answer(limit, index, 100)
    answer(limit, 30, 1000)
    quick = InFlightLimit(seed=8, ceiling=8, tolerance=2.0)
    for index in range(20):
        answer(quick, index, 1 if index < 10 else 40)
    assert (limit.decreases, quick.decreases) == (0, 0)


def test_prompts_are_compared_with_their_like() -> None:
    """Long prompts take longer: that alone is no load."""
    limit = InFlightLimit(seed=8, ceiling=8, tolerance=2.0)
    for index in range(50):
        long = index % 2 == 1
        limit.answered(
            dispatched_ns=index * MS,
            first_token_ns=(index + (2000 if long else 50)) * MS,
            prompt_bytes=100_000 if long else 100,
            in_flight=8,
            in_use=True,
        )
    assert limit.decreases == 0


def test_it_comes_back_where_slowness_was_not_load() -> None:
    """An engine that became slower for good is not strangled: nearly idle, its new pace is ordinary."""
    limit = InFlightLimit(seed=16, ceiling=16, tolerance=2.0)
    for index in range(20):
        answer(limit, index, 100, in_flight=2)
    at_ms, lowest = 100, 16
    for _ in range(2000):
        answer(limit, at_ms, 500, in_flight=limit.value)
        lowest = min(lowest, limit.value)
        at_ms += 600
    assert lowest < 16
    assert limit.value == 16


def test_a_refusal_shrinks_it_and_plain_answers_let_it_grow_again() -> None:
    """503 and silence count as too much; a plain answer shows no first token, only that it was taken."""
    limit = InFlightLimit(seed=10, ceiling=40, tolerance=2.0)
    limit.refused(dispatched_ns=1, now_ns=2)
    limit.refused(dispatched_ns=1, now_ns=3)
    shrunk = limit.value
    for _ in range(9):
        limit.served(in_use=True)
    assert (shrunk, limit.value) == (8, 9)


@given(
    seed=st.integers(1, 300),
    growth=st.integers(1, 4),
    events=st.lists(
        st.tuples(st.sampled_from("apr"), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(1, 300))
    ),
)
def test_it_stays_within_its_bounds(seed: int, growth: int, events: list[tuple[str, int, int, int]]) -> None:
    """Whatever the answers, the limit lies between 1 and the ceiling."""
    limit = InFlightLimit(seed=seed, ceiling=seed * growth, tolerance=2.0)
    for kind, at_ms, took_ms, in_flight in events:
        if kind == "a":
            answer(limit, at_ms, took_ms, in_flight=in_flight)
        elif kind == "p":
            limit.served(in_use=True)
        else:
            limit.refused(dispatched_ns=at_ms * MS, now_ns=(at_ms + took_ms) * MS)
        assert 1 <= limit.value <= seed * growth
