"""The gate before one engine: who is let through now, who waits, and who is told to come again later.

Everything but the waiting itself is a plain call in the event loop's thread, so the counts can never be
between two states. A request that waits holds nothing, neither budget nor device time.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from trivet.config.admission_settings import AdmissionSettings
from trivet.domain.budgets import PRIORITIES, Priority
from trivet.domain.clock import Clock
from trivet.domain.errors import Overloaded
from trivet.execution.admission.claim import Claim
from trivet.execution.admission.fair_line import FairLine
from trivet.execution.admission.limit import IN_USE, InFlightLimit
from trivet.execution.admission.reserve import Reserve
from trivet.execution.admission.service import ServiceRate
from trivet.metering.counters import Histogram

INTERACTIVE_BEFORE_BATCH = 15
"""So many interactive requests may be preferred to a waiting batch request one after the other, not more."""
OVERDUE = 1.5
"""Who was let into the queue waits up to so many times its bound, if things go slower than foretold."""
RETRY_UNKNOWN_S = 5.0
"""When to come again to an engine that has answered nothing yet."""


class Ticket:
    """Leave to run one request. `release` it once it has ended; idempotent."""

    __slots__ = ("_gate", "_in_use", "answered_ns", "claim", "in_flight", "since_ns", "waited_ns")

    def __init__(
        self, gate: "Gate", claim: Claim, in_flight: int, in_use: bool, since_ns: int, waited_ns: int
    ) -> None:
        self._gate: Gate | None = gate
        self._in_use = in_use
        self.claim = claim
        self.in_flight = in_flight
        self.since_ns = since_ns
        self.waited_ns = waited_ns
        self.answered_ns: int | None = None

    def answered(self, dispatched_ns: int, now_ns: int) -> None:
        """Note that the engine produced content; of a plain request, all of it."""
        self.answered_ns = now_ns
        gate = self._gate
        if gate is None:
            return
        limit = gate.limit
        if self.claim.streamed:
            limit.answered(
                dispatched_ns=dispatched_ns,
                first_token_ns=now_ns,
                prompt_bytes=self.claim.prompt_bytes,
                in_flight=self.in_flight,
                in_use=self._in_use,
            )
        else:
            limit.served(in_use=self._in_use)
        if gate.queued:
            gate.admit(now_ns)

    def refused(self, dispatched_ns: int, now_ns: int) -> None:
        """Note that the engine had no room for it, or fell silent."""
        if self._gate is not None:
            self._gate.limit.refused(dispatched_ns=dispatched_ns, now_ns=now_ns)

    def release(self) -> None:
        """Give the place back, and let the next one through."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.take_back(self)


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits to be let through."""

    claim: Claim
    since_ns: int
    turn: "asyncio.Future[Ticket]"


class Gate:
    """Lets requests through to one engine."""

    def __init__(
        self,
        name: str,
        *,
        seed: int,
        ceiling: int,
        settings: AdmissionSettings,
        clock: Clock,
        waits: Histogram,
    ) -> None:
        """Take what is known of the engine.

        Args:
            name: the engine's, for messages.
            seed: requests that it runs at once.
            ceiling: the most that it may ever be given at once.
            settings: the section.
            clock: both clocks; its monotonic one must be the event loop's.
            waits: counts those that had to wait and were let through.
        """
        self.name = name
        self.limit = InFlightLimit(seed=seed, ceiling=ceiling, tolerance=settings.ttft_tolerance)
        self.in_flight = 0
        self.shed: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self.queued_most = 0
        self._settings = settings
        self._clock = clock
        self._waits = waits
        self._critical = 0
        self._batch_passed_over = 0
        self._reserve = Reserve(settings.critical_reserve)
        self._rate = ServiceRate()
        self._lines: dict[Priority, FairLine[Waiter]] = {priority: FairLine() for priority in PRIORITIES}
        self.queued = 0
        """How many wait."""

    def queued_by_priority(self) -> dict[Priority, int]:
        """Return how many wait, by priority."""
        return {priority: len(line) for priority, line in self._lines.items()}

    def take(self, claim: Claim) -> Ticket | None:
        """Let a request through at once; None: it would have to wait."""
        now_ns = self._clock.monotonic_ns()
        if claim.priority == "critical":
            self._reserve.came(self._critical + len(self._lines["critical"]) + 1, now_ns)
        if not self._has_room(claim.priority, now_ns) or (self.queued and self._is_waited_before(claim)):
            return None
        return self._let_through(claim, now_ns, waited_ns=0)

    def wait_s(self, claim: Claim) -> float | None:
        """Return how long a request would wait if it joined now; None: nobody can tell yet."""
        now_ns = self._clock.monotonic_ns()
        if self._has_room(claim.priority, now_ns) and not (self.queued and self._is_waited_before(claim)):
            return 0.0
        wait_ns = self._rate.wait_ns(self._ahead_of(claim), self._places(claim.priority, now_ns))
        return None if wait_ns is None else wait_ns / 1e9

    def bound_s(self, priority: Priority, left_s: float) -> float:
        """Return how long a request may wait, of which `left_s` is what is left of its time."""
        settings = self._settings
        longest_s = settings.batch_max_wait_s if priority == "batch" else settings.max_wait_s
        return min(longest_s, left_s)

    def overloaded(self, claim: Claim) -> Overloaded:
        """Return the refusal of a request that would wait for too long. Counts nothing."""
        wait_s = self.wait_s(claim)
        told = "nobody can tell how long" if wait_s is None else f"about {wait_s:.0f} s"
        return Overloaded(
            f"{self.name} is full: {self.in_flight} requests run and {self.queued} wait; "
            f"this one would wait {told}.",
            hint="Try again after the time in `retry-after`, or ask for less.",
            retry_after_s=max(1.0, RETRY_UNKNOWN_S if wait_s is None else wait_s),
            details={
                "deployment": self.name,
                "expected_wait_s": None if wait_s is None else round(wait_s, 1),
                "queued": self.queued,
            },
        )

    def shed_at_once(self, claim: Claim) -> Overloaded:
        """Return the refusal of a request that shall not wait here, and count it."""
        return self._shed(claim)

    async def queue(self, claim: Claim, *, left_s: float) -> Ticket:
        """Wait to be let through. Whoever is cancelled meanwhile leaves nothing behind.

        Raises:
            Overloaded: the wait would be, or became, longer than the request can wait; or others with
                more right to wait came, and the queue is full.
        """
        bound_s = self.bound_s(claim.priority, left_s)
        waiter = self._join(claim, bound_s)
        try:
            async with asyncio.timeout(min(left_s, OVERDUE * bound_s)):
                return await waiter.turn
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                raise self._shed(claim) from None
            raise

    def take_back(self, ticket: Ticket) -> None:
        """Take a ticket back; for the ticket."""
        now_ns = self._clock.monotonic_ns()
        self.in_flight -= 1
        if ticket.claim.priority == "critical":
            self._critical -= 1
        if ticket.answered_ns is not None:
            self._rate.ended(now_ns - ticket.since_ns, ticket.claim.work)
        if self.queued:
            self.admit(now_ns)

    def as_json(self) -> dict[str, Any]:
        """Return the gate as the API shows it."""
        return {
            "limit": self.limit.value,
            "in_flight": self.in_flight,
            "reserved": self._reserve.size(self.limit.value, self._clock.monotonic_ns()),
            "queued": self.queued_by_priority(),
            "queued_most": self.queued_most,
            "shed": dict(self.shed),
            "strain": round(self.limit.strain, 2),
        }

    def _has_room(self, priority: Priority, now_ns: int) -> bool:
        limit = self.limit.value
        if self.in_flight >= limit or not self._settings.enabled:
            return not self._settings.enabled
        if priority == "critical":
            return True
        kept_free = self._reserve.size(limit, now_ns) - self._critical
        return kept_free <= 0 or self.in_flight < limit - kept_free

    def _places(self, priority: Priority, now_ns: int) -> int:
        limit = self.limit.value
        if priority == "critical":
            return limit
        # Critical requests that come meanwhile overtake: what is theirs is not counted on, free or not.
        return max(1, limit - max(self._reserve.size(limit, now_ns), self._critical))

    def _is_waited_before(self, claim: Claim) -> bool:
        """Tell whether somebody waits whom the claim must not overtake."""
        return any(line for priority, line in self._lines.items() if _rank(priority) >= _rank(claim.priority))

    def _ahead_of(self, claim: Claim) -> int:
        own = self._lines[claim.priority].ahead_of(claim)
        rank = _rank(claim.priority)
        ahead = own + sum(line.work for priority, line in self._lines.items() if _rank(priority) > rank)
        return max(ahead, self._overtaken(own + claim.work)) if claim.priority == "batch" else ahead

    def _overtaken(self, work: int) -> int:
        """Return what is served until so much batch work was, if batch is overtaken and goes on to be."""
        return (INTERACTIVE_BEFORE_BATCH + 1) * work if self._batch_passed_over else 0

    def _let_through(self, claim: Claim, now_ns: int, *, waited_ns: int) -> Ticket:
        self.in_flight += 1
        if claim.priority == "critical":
            self._critical += 1
        in_use = self.queued > 0 or self.in_flight >= IN_USE * self.limit.value
        return Ticket(self, claim, self.in_flight, in_use, now_ns, waited_ns)

    def _join(self, claim: Claim, bound_s: float) -> Waiter:
        wait_s = self.wait_s(claim)
        if wait_s is not None and wait_s > bound_s:
            raise self._shed(claim)
        if self.queued >= self._settings.max_queued:
            self._make_room(claim)
        waiter = Waiter(claim, self._clock.monotonic_ns(), asyncio.get_running_loop().create_future())
        self._lines[claim.priority].join(waiter)
        self.queued += 1
        self.queued_most = max(self.queued_most, self.queued)
        self._drop_late_batch(claim)
        # Room may have come since it asked: nobody would wake it.
        self.admit(waiter.since_ns)
        return waiter

    def _make_room(self, claim: Claim) -> None:
        """Send one away from a full queue: of a lesser priority the newest, else of who has most waiting."""
        for priority in PRIORITIES:
            line = self._lines[priority]
            if priority == claim.priority:
                victim = line.newest_of_longest(claim)
                break
            if len(line):
                victim = line.newest()
                break
        else:  # pragma: no cover - a claim's priority is one of them
            victim = None
        if victim is None:
            raise self._shed(claim)
        self._send_away(victim)

    def _drop_late_batch(self, claim: Claim) -> None:
        """Send away the newest batch requests that will not get their turn in time, now that others came."""
        line = self._lines["batch"]
        if claim.priority == "batch" or not len(line):
            return
        bound_ns = self._settings.batch_max_wait_s * 1e9
        places = self.limit.value
        while len(line):
            ahead = sum(other.work for other in self._lines.values()) - line.newest().claim.work
            ahead = max(ahead, self._overtaken(line.work))
            wait_ns = self._rate.wait_ns(ahead, places)
            if wait_ns is None or wait_ns <= bound_ns:
                return
            self._send_away(line.newest())

    def _send_away(self, waiter: Waiter) -> None:
        self._lines[waiter.claim.priority].leave(waiter)
        self.queued -= 1
        refusal = self._shed(waiter.claim)
        if not waiter.turn.done():
            waiter.turn.set_exception(refusal)

    def _shed(self, claim: Claim) -> Overloaded:
        self.shed[claim.priority] += 1
        return self.overloaded(claim)

    def _withdraw(self, waiter: Waiter) -> None:
        """Take back a request that waits no more, also when its turn had just come."""
        if self._lines[waiter.claim.priority].leave(waiter):
            self.queued -= 1
            return
        turn = waiter.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().release()

    def admit(self, now_ns: int) -> None:
        """Let those through who have waited longest by right, while there is room; for the tickets."""
        while self.queued:
            priority = self._next_priority()
            if not self._has_room(priority, now_ns):
                return
            waiter = self._lines[priority].pop()
            self.queued -= 1
            if priority != "critical":
                overtaken = priority == "interactive" and len(self._lines["batch"]) > 0
                self._batch_passed_over = self._batch_passed_over + 1 if overtaken else 0
            waited_ns = now_ns - waiter.since_ns
            if waiter.turn.done():  # its task was cancelled and has not run yet
                continue
            self._waits.observe(waited_ns)
            waiter.turn.set_result(self._let_through(waiter.claim, now_ns, waited_ns=waited_ns))

    def _next_priority(self) -> Priority:
        lines = self._lines
        if len(lines["critical"]):
            return "critical"
        if not len(lines["batch"]):
            return "interactive"
        waits_on = len(lines["interactive"]) and self._batch_passed_over < INTERACTIVE_BEFORE_BATCH
        return "interactive" if waits_on else "batch"


def _rank(priority: Priority) -> int:
    return PRIORITIES.index(priority)
