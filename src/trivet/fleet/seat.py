"""A member's seat in its swap group: its state, its measured durations, who runs on it and who waits."""

import asyncio
import functools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineUnavailable
from trivet.fleet.residency import Member

RUNS_REMEMBERED = 16
ARRIVALS_REMEMBERED = 8
ARRIVALS_TO_TELL = 3
REST_FIRST_S = 5.0
REST_MAX_S = 300.0


class Resident(Protocol):
    """A deployment that can be put into memory and taken out of it; one call at a time."""

    @property
    def name(self) -> str:
        """Return the deployment's name."""
        ...

    @property
    def slots(self) -> int:
        """Return how many requests run at once; no more are let in, so that they have ended soon."""
        ...

    @property
    def warms_up(self) -> bool:
        """Tell whether it sleeps between its turns, so that the first one should be had early."""
        ...

    @property
    def obstacle(self) -> str:
        """Return why it cannot be brought, such as a server that does not answer; empty when it can.

        Nobody makes room for one that cannot.
        """
        ...

    @property
    def is_lost(self) -> bool:
        """Tell whether a member that went to sleep has died since, and must be loaded from nothing."""
        ...

    async def find(self) -> EngineState:
        """Return `ready`, `sleeping` or `absent`, as it is now.

        Raises:
            EngineError: it cannot be told.
        """
        ...

    async def bring(self) -> None:
        """Put it into memory; return when it answers.

        Raises:
            EngineError: it could not be.
        """
        ...

    async def release(self) -> EngineState:
        """Take it out of memory; return `sleeping` or `absent` once its memory is free.

        Raises:
            EngineError: it still holds its memory.
        """
        ...

    def expected_s(self, state: EngineState) -> float:
        """Return how long `bring` may take from `sleeping` or `absent`, in seconds; a first guess."""
        ...


class Place:
    """Leave to run one request on a member that is in memory: release it, or use it as a context."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._held = True

    def __enter__(self) -> Self:
        """Hold it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self.release()

    def release(self) -> None:
        """Give it back; idempotent."""
        if self._held:
            self._held = False
            self._give_back()


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits for its place. Instants are monotonic seconds."""

    since_s: float
    due_s: float
    """When a swap must have begun for it to get its place in time; infinite where that is out of reach."""
    turn: asyncio.Future[Place]


@dataclass(slots=True, eq=False)
class Seat:
    """What the group knows of a member. Instants are monotonic seconds."""

    resident: Resident
    now_s: Callable[[], float]
    changed: Callable[[], None]
    """Called when the group should decide anew."""
    state: EngineState = EngineState.ABSENT
    origin: EngineState = EngineState.ABSENT
    """What it comes from while it comes: `sleeping` or `absent`."""
    moving: bool = False
    moving_since_s: float = 0.0
    ready_since_s: float = 0.0
    idle_since_s: float = 0.0
    left_s: float = 0.0
    """When it last stopped taking requests: what queued for its slots before waits for a swap since then."""
    running: int = 0
    queue: deque[Waiter] = field(default_factory=deque)
    first_due_s: float | None = None
    """The earliest `due_s` in the queue; None when it must be looked for again."""
    runs_s: deque[float] = field(default_factory=lambda: deque(maxlen=RUNS_REMEMBERED))
    came_s: deque[float] = field(default_factory=lambda: deque(maxlen=ARRIVALS_REMEMBERED))
    brought_in_s: dict[EngineState, float] = field(default_factory=dict)
    """How long it last took to come, by origin."""
    left_in_s: float | None = None
    """How long it last took to leave."""
    wished_since_s: float | None = None
    wished_s: float = 0.0
    """When its requests began to be served by others because it was out of memory, and when the last was."""
    failures: int = 0
    rests_until_s: float = 0.0
    fault: str = ""

    def ready(self) -> None:
        """Note that it is in memory, and let those who wait begin."""
        self.ready_since_s = self.idle_since_s = self.now_s()
        self.state, self.failures, self.fault = EngineState.READY, 0, ""
        self.wished_since_s = None
        self.admit()

    def join(self, wait_s: float, leave_s: float) -> Waiter:
        """Queue for a place for `wait_s`; `leave_s` is what another member takes to leave."""
        now_s = self.now_s()
        self.came_s.append(now_s)
        due_s = now_s + wait_s - self.bring_s(now_s) - leave_s
        turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        waiter = Waiter(now_s, due_s if due_s > now_s else math.inf, turn)
        self.first_due_s = min(waiter.due_s, self._due_s())
        self.queue.append(waiter)
        self.admit()
        self.changed()
        return waiter

    def wish(self, lasts_s: float) -> None:
        """Note that a request meant for it was served by another; it is forgotten after `lasts_s`."""
        if self.state is EngineState.READY or self.refusal() is not None:
            return
        if not self._is_wished(lasts_s):
            self.wished_since_s = self.now_s()
        self.wished_s = self.now_s()
        self.changed()

    def withdraw(self, waiter: Waiter) -> None:
        """Take back a request that waits no more, also when its turn had just come."""
        if waiter in self.queue:
            self.queue.remove(waiter)
            self.first_due_s = None
        elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
            waiter.turn.result().release()
        self.changed()

    def take(self) -> Place | None:
        """Return a place if it is in memory, has a slot free, and nobody came before."""
        if self.state is not EngineState.READY or self.moving or self.queue or not self._has_slot:
            return None
        self.came_s.append(self.now_s())
        return self._seat_one()

    def admit(self) -> None:
        """Let those who wait begin, in the order they came, if it is in memory and has slots free."""
        if self.state is not EngineState.READY or self.moving:
            return
        while self.queue and self._has_slot:
            turn = self.queue.popleft().turn
            self.first_due_s = None
            if not turn.done():
                turn.set_result(self._seat_one())

    def fail(self, fault: str) -> None:
        """Tell those who wait, and let the member rest for a pause that grows."""
        self.failures += 1
        rest_s = min(REST_MAX_S, REST_FIRST_S * 2.0 ** min(self.failures - 1, 16))
        self.rests_until_s, self.fault = self.now_s() + rest_s, fault
        self.first_due_s = None
        while self.queue:
            turn = self.queue.popleft().turn
            if not turn.done():
                turn.set_exception(self._rest_error())

    def refusal(self) -> EngineUnavailable | None:
        """Return the error of those who ask while it rests, or cannot be brought; None if they may wait."""
        if self.state is not EngineState.READY and (obstacle := self.resident.obstacle):
            return EngineUnavailable(f"{self.resident.name} cannot be loaded: {obstacle}", retry_after_s=5.0)
        return self._rest_error() if self.now_s() < self.rests_until_s else None

    def _rest_error(self) -> EngineUnavailable:
        return EngineUnavailable(
            f"{self.resident.name} cannot be loaded: {self.fault}",
            retry_after_s=max(1.0, self.rests_until_s - self.now_s()),
        )

    def bring_s(self, now_s: float) -> float:
        """Return how long it is expected to take from now until it answers."""
        origin = self.origin if self.state.is_coming else origin_of(self.state)
        expected_s = self.brought_in_s.get(origin, self.resident.expected_s(origin))
        return max(0.0, expected_s - (now_s - self.moving_since_s)) if self.state.is_coming else expected_s

    def look(self) -> None:
        """Note what happened to it by itself."""
        if self.state is EngineState.SLEEPING and self.resident.is_lost:
            self.state = EngineState.ABSENT

    def member(self, *, leave_s: float, drain_s: float, wish_lasts_s: float) -> Member:
        """Return it as the decision sees it; the durations stand in for what was never measured of it.

        Requests that others serve in its place count as one that waits.
        """
        since_s = [max(self.queue[0].since_s, self.left_s)] if self.queue else []
        if self.wished_since_s is not None and self._is_wished(wish_lasts_s):
            since_s.append(max(self.wished_since_s, self.left_s))
        return Member(
            name=self.resident.name,
            state=self.state,
            moving=self.moving,
            bring_s=self.bring_s(self.now_s()),
            leave_s=leave_s if self.left_in_s is None else self.left_in_s,
            drain_s=max(self.runs_s, default=drain_s),
            running=self.running,
            waiting=max(len(self.queue), len(since_s)),
            waits_since_s=min(since_s, default=None),
            due_s=self._due_s() if self.queue else None,
            ready_since_s=self.ready_since_s,
            idle_since_s=self.idle_since_s,
            gap_s=self._gap_s(),
        )

    def _due_s(self) -> float:
        if self.first_due_s is None:
            self.first_due_s = min((waiter.due_s for waiter in self.queue), default=math.inf)
        return self.first_due_s

    @property
    def _has_slot(self) -> bool:
        return self.running < self.resident.slots

    def _seat_one(self) -> Place:
        self.running += 1
        return Place(functools.partial(self._give_back, self.now_s()))

    def _is_wished(self, lasts_s: float) -> bool:
        return self.wished_since_s is not None and self.now_s() - self.wished_s <= lasts_s

    def _gap_s(self) -> float | None:
        if len(self.came_s) < ARRIVALS_TO_TELL:
            return None
        return (self.came_s[-1] - self.came_s[0]) / (len(self.came_s) - 1)

    def _give_back(self, began_s: float) -> None:
        now_s = self.now_s()
        self.running -= 1
        self.runs_s.append(now_s - began_s)
        self.idle_since_s = now_s
        self.admit()
        self.changed()


def origin_of(state: EngineState) -> EngineState:
    """Return whether a member in this state comes from its sleep or from nothing."""
    return EngineState.SLEEPING if state is EngineState.SLEEPING else EngineState.ABSENT
