"""The queue of the thread that writes: order, patience, and that nobody is forgotten."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from trivet.storage.inbox import CROWD, PATIENCE_S, Inbox


def test_all_is_taken_in_order() -> None:
    """Whoever is patient comes along at its place."""
    inbox: Inbox[int] = Inbox()
    for number in range(6):
        assert inbox.put(number, patient=number % 2 == 0)
    assert inbox.take(4) == [0, 1, 2, 3]
    assert inbox.take(4) == [4, 5]


def test_the_patient_wait_for_company() -> None:
    """Alone it is taken when its time is over; with one that presses it is taken at once."""
    inbox: Inbox[str] = Inbox()
    inbox.put("patient", patient=True)
    began_s = time.monotonic()
    assert inbox.take(8) == ["patient"]
    assert time.monotonic() - began_s >= PATIENCE_S * 0.9
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(inbox.take, 8)
        inbox.put("patient", patient=True)
        inbox.put("pressing")
        found = taking.result(30)
        assert found + ([] if len(found) == 2 else inbox.take(8)) == ["patient", "pressing"]


def test_a_closed_one_is_emptied() -> None:
    """What was put before is still taken; then there is nothing, and nothing comes in."""
    inbox: Inbox[int] = Inbox()
    inbox.put(1, patient=True)
    inbox.close()
    assert not inbox.put(2)
    assert inbox.take(8) == [1]
    assert inbox.take(8) == []


def test_close_wakes_who_sleeps() -> None:
    """A taker that waits for the first thing learns of the end."""
    inbox: Inbox[int] = Inbox()
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(inbox.take, 8)
        inbox.close()
        assert taking.result(30) == []


def test_nothing_is_lost_or_forgotten() -> None:
    """Many put at once, patient or not: each thread's things are taken in its order, all of them."""
    inbox: Inbox[tuple[int, int]] = Inbox()
    count, threads = 400, 4

    def put(thread: int) -> None:
        for number in range(count):
            inbox.put((thread, number), patient=number % 3 != 0)
            if number % 50 == thread:
                time.sleep(PATIENCE_S)

    putting = [threading.Thread(target=put, args=(thread,)) for thread in range(threads)]
    for thread in putting:
        thread.start()
    taken: list[tuple[int, int]] = []
    while len(taken) < count * threads:
        some = inbox.take(8)
        assert 0 < len(some) <= 8
        taken += some
    for thread in putting:
        thread.join()
    for number in range(threads):
        assert [item for item in taken if item[0] == number] == [(number, one) for one in range(count)]


def test_a_crowd_comes_together() -> None:
    """After a crowd those who come next are given a moment, but the closed one has no time to give."""
    inbox: Inbox[int] = Inbox()
    for number in range(CROWD):
        inbox.put(number)
    assert len(inbox.take(64)) == CROWD
    inbox.put(0)
    late = threading.Timer(0, inbox.put, [1])
    late.start()
    late.join()
    assert inbox.take(64) == [0, 1]
