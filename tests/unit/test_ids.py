"""Names for what has none."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

from trivet.domain.ids import new_id


def test_names_are_hex_and_none_is_given_twice_whoever_asks() -> None:
    """Each is 32 digits of hex; threads may ask at the same time."""

    def many(_: int) -> list[str]:
        return [new_id() for _ in range(5_000)]

    with ThreadPoolExecutor(8) as threads:
        names = [name for some in threads.map(many, range(8)) for name in some]
    assert len(set(names)) == len(names) == 40_000
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)


def test_a_name_begins_with_the_time_so_that_indexes_grow_at_their_end() -> None:
    """Its first 48 bits are milliseconds since 1970."""
    before_ms = time.time_ns() // 1_000_000
    name = new_id()
    after_ms = time.time_ns() // 1_000_000
    assert before_ms <= int(name[:12], 16) <= after_ms


def test_the_rest_of_a_name_is_drawn_by_chance() -> None:
    """No bit of it stands still."""
    rests = [int(new_id()[12:], 16) for _ in range(2_000)]
    # Each of the 80 bits is set in about half of them: 300 more or fewer are 13 standard deviations.
    for bit in range(80):
        assert 700 < sum(rest >> bit & 1 for rest in rests) < 1_300
