"""Busy time from recorded intervals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.metering.interval_union import union_by_device


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], {}),
        ([(("a",), 10, 20)], {"a": 10}),
        ([(("a",), 10, 20), (("a",), 15, 30)], {"a": 20}),
        ([(("a",), 10, 40), (("a",), 15, 30), (("a",), 50, 60)], {"a": 40}),
        ([(("a", "b"), 10, 20), (("b",), 15, 30)], {"a": 10, "b": 20}),
        ([(("a",), 0, 12), (("a",), 95, 200)], {"a": 12}),
        ([(("a",), 0, 4), (("a",), 120, 130), ((), 10, 20), (("b",), 20, 20)], {}),
    ],
    ids=[
        "none",
        "one",
        "overlapping",
        "nested and apart",
        "two devices",
        "cut to the range",
        "nothing inside",
    ],
)
def test_covered_time_is_counted_once(
    intervals: list[tuple[tuple[str, ...], int, int]], expected: dict[str, int]
) -> None:
    """Each device's time in [5, 100) counts where at least one interval covers it, and only once."""
    assert union_by_device(intervals, since_ns=5, until_ns=100) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=12))
def test_the_union_is_the_number_of_covered_points(spans: list[tuple[int, int]]) -> None:
    """Over whole numbers the union's length is the count of the numbers that some interval holds."""
    intervals = sorted((start, start + length) for start, length in spans)
    covered = {point for start, end in intervals for point in range(max(start, 10), min(end, 50))}
    union = union_by_device([(("a",), *interval) for interval in intervals], since_ns=10, until_ns=50)
    assert union.get("a", 0) == len(covered)
