"""What waits for the thread that writes: it takes things in their order, as many at once as there are.

To wake a thread costs more than to leave it a job. So it is woken only while it sleeps, and not at all by
what has time: that goes along with the next that has none.
"""

import contextlib
import threading
import time
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

CROWD = 4
"""After so many at once, whoever was answered is waited for: all of them, beside those who came meanwhile."""
MOMENT_S = 0.002
"""How long they are waited for, at most. Whom a commit has answered comes back, but one after the other. To
begin with those who are there already would leave two crowds that take turns, with twice as many commits of
half the size, each with its own wait for the disk. A little more than what writing a crowd's batch takes."""
PATIENCE_S = 0.005
"""How long the patient wait for company."""

_AWAKE, _DOZING, _ASLEEP = range(3)


class Inbox(Generic[T]):
    """A queue with one taker. Anybody may put, from any thread."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._items: list[T] = []
        self._pressing = False
        """Whether something is there that has no time."""
        self._closed = False
        self._sleep = _AWAKE
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._last_count = 0
        self._wanted = 0
        """With how many a crowd is whole, while one is waited for; otherwise 0."""

    def put(self, item: T, *, patient: bool = False) -> bool:
        """Leave something at the end; False if it is closed.

        `patient`: it may lie for up to PATIENCE_S, until something that is not comes.
        """
        with self._gate:
            if self._closed:
                return False
            self._items.append(item)
            if not patient:
                self._pressing = True
            wakes = self._sleep > (_DOZING if patient else _AWAKE) or len(self._items) == self._wanted
            if wakes:
                self._sleep = _AWAKE
        if wakes:
            self._bell.put(None)
        return True

    def take(self, limit: int) -> list[T]:
        """Wait for something, then take what is there; nothing only once it is closed and empty."""
        whole = self._last_count + len(self._items)
        self._wait()
        if self._last_count >= CROWD:
            self._wait_for(min(whole, limit))
        taken = self._some(limit)
        self._last_count = len(taken)
        return taken

    def close(self) -> None:
        """Take nothing more in; idempotent."""
        with self._gate:
            self._closed = True
        self._bell.put(None)

    def _wait(self) -> None:
        """Return when something is there that has no time, or has none left, or when it is closed."""
        until_s: float | None = None
        while True:
            with self._gate:
                if self._pressing or self._closed:
                    return
                dozes = bool(self._items)
                self._sleep = _DOZING if dozes else _ASLEEP
            if not dozes:
                self._bell.get()
                continue
            now_s = time.monotonic()
            until_s = until_s or now_s + PATIENCE_S
            try:
                self._bell.get(timeout=max(0.0, until_s - now_s))
            except Empty:
                return

    def _wait_for(self, count: int) -> None:
        """Wait until so many are there, or the moment is over."""
        with self._gate:
            if len(self._items) >= count or self._closed:
                return
            self._sleep = _AWAKE
            self._wanted = count
        with contextlib.suppress(Empty):
            self._bell.get(timeout=MOMENT_S)
        self._wanted = 0

    def _some(self, limit: int) -> list[T]:
        with self._gate:
            self._sleep = _AWAKE
            if len(self._items) <= limit:
                taken, self._items, self._pressing = self._items, [], False
            else:
                taken, self._items = self._items[:limit], self._items[limit:]
        return taken
