"""Names for what has none."""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from trivet.domain.ids import new_id


def test_names_are_hex_and_none_is_given_twice_whoever_asks() -> None:
    """Each is 32 digits of hex; threads may ask at the same time."""

    def many(_: int) -> list[str]:
        return [new_id() for _ in range(5_000)]

    with ThreadPoolExecutor(8) as threads:
        names = [name for some in threads.map(many, range(8)) for name in some]
    assert len(set(names)) == len(names) == 40_000
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)


def test_names_come_in_order_so_that_indexes_grow_at_their_end() -> None:
    """The first 48 bits are milliseconds since 1970, of when many were drawn, which are in order."""
    before_ms = time.time_ns() // 1_000_000
    names = [new_id() for _ in range(2_000)]
    after_ms = time.time_ns() // 1_000_000
    assert before_ms <= int(names[-1][:12], 16) <= after_ms
    times = [name[:12] for name in names]
    assert times == sorted(times)
    assert sum(one > other for one, other in pairwise(names)) <= 9  # draws; several can come in one ms


def test_a_forked_process_draws_its_own() -> None:
    """What was drawn before a fork is given by one of the two only."""
    new_id()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(told, 32).decode()
    assert len(theirs) == 32
    assert theirs not in [new_id() for _ in range(1_000)]


def test_the_rest_of_a_name_is_drawn_by_chance() -> None:
    """No bit of it stands still."""
    rests = [int(new_id()[12:], 16) for _ in range(2_000)]
    # Each of the 80 bits is set in about half of them: 300 more or fewer are 13 standard deviations.
    for bit in range(80):
        assert 700 < sum(rest >> bit & 1 for rest in rests) < 1_300
