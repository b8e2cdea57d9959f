"""Whose turn it is among several that share something, in proportion to what each has had. Pure.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each taker's next turn begins, in virtual
time, where its last one ended, but not before now; the earliest begin is next. Whoever comes late starts
now: nothing is saved up, nobody is owed. A step costs O(log n).
"""

import heapq
from itertools import count

SPARE = 64
"""So many entries of takers that are out are kept at most, beside as many as are in twice over."""


class Turns:
    """The order of takers, by name. A taker is in or out; being in, it has one next turn."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ended: dict[str, float] = {}
        self._entered: dict[str, int] = {}
        """Who is in, by the number of its valid entry in the heap."""
        self._heap: list[tuple[float, int, str]] = []
        self._numbers = count()

    def __len__(self) -> int:
        """Return how many are in."""
        return len(self._entered)

    def enter(self, name: str) -> None:
        """Let a taker in that is out."""
        self._push(name, max(self._now, self._ended.get(name, 0.0)))

    def first(self) -> str:
        """Return whose turn it is; somebody must be in."""
        while True:
            _, number, name = self._heap[0]
            if self._entered.get(name) == number:
                return name
            heapq.heappop(self._heap)

    def serve(self, name: str, cost: float, *, stays: bool) -> None:
        """Give the first its turn, at a cost; it takes another one, or is out."""
        start, _, _ = heapq.heappop(self._heap)
        self._now = start
        self._ended[name] = start + cost
        del self._entered[name]
        if stays:
            self._push(name, start + cost)
        else:
            self._forget()

    def leave(self, name: str) -> None:
        """Take out a taker that is in, without a turn."""
        del self._entered[name]
        self._forget()

    def _push(self, name: str, start: float) -> None:
        number = next(self._numbers)
        self._entered[name] = number
        heapq.heappush(self._heap, (start, number, name))

    def _forget(self) -> None:
        """Drop what is of no account: all of it once nobody is in, since nobody competes then."""
        if not self._entered:
            self._now = 0.0
            self._ended.clear()
            self._heap.clear()
            return
        most = 2 * len(self._entered) + SPARE
        if len(self._ended) > most:
            self._ended = {name: end for name, end in self._ended.items() if end > self._now}
        if len(self._heap) > most:
            self._heap = [entry for entry in self._heap if self._entered.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
