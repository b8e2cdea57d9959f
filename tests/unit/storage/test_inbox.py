"""The queue of the thread that writes: order, patience, and that nobody is forgotten."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from trivet.storage.inbox import CROWD, MOMENT_S, PATIENCE_S, Inbox


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
    """After a crowd as many are waited for, though some are there, and taken as soon as they have come."""
    inbox: Inbox[int] = Inbox()
    for number in range(CROWD):
        inbox.put(number)
    assert len(inbox.take(64)) == CROWD
    with ThreadPoolExecutor(1) as pool:
        inbox.put(0)
        taking = pool.submit(inbox.take, 64)
        for number in range(1, CROWD + 1):
            inbox.put(number)
        found = taking.result(30)
    assert found + ([] if len(found) > CROWD else inbox.take(64)) == list(range(CROWD + 1))


def test_who_stays_away_is_not_waited_for_long() -> None:
    """Whoever is there is taken when the moment is over; after fewer than a crowd there is none."""
    inbox: Inbox[int] = Inbox()
    for number in range(CROWD):
        inbox.put(number)
    inbox.take(64)
    inbox.put(0)
    began_s = time.monotonic()
    assert inbox.take(64) == [0]
    assert time.monotonic() - began_s >= MOMENT_S * 0.9
    inbox.put(1)
    assert inbox.take(64) == [1]


def test_the_closed_waits_for_no_crowd() -> None:
    """What is there is taken; nobody else can come."""
    inbox: Inbox[int] = Inbox()
    for number in range(CROWD):
        inbox.put(number)
    inbox.take(64)
    inbox.put(0)
    inbox.close()
    assert inbox.take(64) == [0]
    assert inbox.take(64) == []
