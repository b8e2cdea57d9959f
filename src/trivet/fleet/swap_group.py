"""A swap group: deployments of which at most one is in memory, and who may run when.

The group owns its members' residency. Whoever has a request asks it for a `place` and waits; one task acts on
what `residency.decide` says. Nothing that fails ends that task: it becomes the error of those who wait.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence

import structlog

from trivet.domain.clock import Clock
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineError, EngineLoading
from trivet.fleet.residency import Member, Move, Rules, Step, decide, expected_wait_s
from trivet.fleet.seat import Place, Resident, Seat, origin_of

log = structlog.get_logger(__name__)

TICK_S = 0.001
WISH_SHARE = 0.5
"""For this part of `max_wait_s` it is remembered that a member's request was served by another."""


class SwapGroup:
    """Holds the residency of its members. `begin`, then `run` in a task until the end."""

    def __init__(self, name: str, residents: Sequence[Resident], rules: Rules, clock: Clock) -> None:
        """Take the members in the order of the configuration; the first is brought at the start."""
        self.name = name
        self.swaps = 0
        """How often a member was brought because requests waited for it."""
        self.step = Step(Move.STAY, None, None, "The group has not begun.")
        """The last decision."""
        self.begun = asyncio.Event()
        """Set once it is known who is in memory."""
        self._rules = rules
        self._clock = clock
        self._changed = asyncio.Event()
        self._seats = {
            resident.name: Seat(resident, self._now_s, self._changed.set) for resident in residents
        }

    async def begin(self) -> None:
        """Take over what is there: of several members in memory one stays; of none, the first comes.

        Members that sleep between their turns are brought once before it, one after the other: so later swaps
        are short, and what does not fit shows itself now.
        """
        seats = list(self._seats.values())
        present = None
        for seat in seats:
            fault = await _fault_of(self._find(seat))
            if fault is not None and not seat.resident.obstacle:
                self._fail(seat, fault)
            elif fault is not None:
                log.warning("swap.unreachable", group=self.name, deployment=seat.resident.name, error=fault)
            elif seat.state is EngineState.READY and present is not None:
                await self._release(seat)
            elif seat.state is EngineState.READY:
                seat.ready()
                present = seat
        if present is None:
            for seat in seats[1:]:
                if seat.resident.warms_up and seat.state is EngineState.ABSENT and not seat.failures:
                    await self._warm_up(seat)
            if seats[0].refusal() is None:
                await self._bring(seats[0])
        self.begun.set()

    async def run(self) -> None:
        """Act until cancelled."""
        while True:
            self._changed.clear()
            self.step = decide(self._members(), self._rules, self._now_s())
            await self._carry_out(self.step)

    async def place(self, name: str, *, wait_s: float) -> Place:
        """Wait until the member is in memory and has a slot free, and return the leave to use it.

        A caller that is cancelled meanwhile leaves nothing behind.

        Raises:
            EngineLoading: it did not come to that within `wait_s`.
            EngineUnavailable: the member cannot be put into memory, or another cannot be taken out of it.
        """
        seat = self._seats[name]
        if (refusal := seat.refusal()) is not None:
            raise refusal
        waiter = seat.join(wait_s, self._leave_s())
        try:
            async with asyncio.timeout(wait_s):
                return await waiter.turn
        except BaseException as error:
            seat.withdraw(waiter)
            if isinstance(error, TimeoutError):
                raise EngineLoading(
                    f"{name} had no place within {wait_s:.0f} s: {self.step.reason}",
                    retry_after_s=max(1.0, self.expected_wait_s(name)),
                ) from None
            raise

    def wish(self, name: str) -> None:
        """Note that a request would have gone to a member, had it been in memory, and is served by another.

        While such requests keep coming, the member gets its turn as if one of them waited.
        """
        self._seats[name].wish(WISH_SHARE * self._rules.max_wait_s)

    def state(self, name: str) -> EngineState:
        """Return the member's state: `ready` when it is in memory, whatever its engine's health."""
        self._seats[name].look()
        return self._seats[name].state

    def expected_wait_s(self, name: str) -> float:
        """Return how long a request that came now would wait for the member, in seconds."""
        return expected_wait_s(self._members(), self._rules, self._now_s(), name)

    def take(self, name: str) -> Place | None:
        """Return a place on the member if one is free now; else None, and `place` waits for it."""
        return self._seats[name].take()

    def waiting(self, name: str) -> int:
        """Return how many requests wait for the member."""
        return len(self._seats[name].queue)

    def fault(self, name: str) -> str:
        """Return why the member could last not be put into memory or taken out of it; empty if it could."""
        return self._seats[name].fault

    def _members(self) -> list[Member]:
        seats = self._seats.values()
        for seat in seats:
            seat.look()
        drain_s = max((run_s for seat in seats for run_s in seat.runs_s), default=0.0)
        return [
            seat.member(
                leave_s=self._leave_s(), drain_s=drain_s, wish_lasts_s=WISH_SHARE * self._rules.max_wait_s
            )
            for seat in seats
        ]

    def _leave_s(self) -> float:
        return max((seat.left_in_s or 0.0 for seat in self._seats.values()), default=0.0)

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    async def _carry_out(self, step: Step) -> None:
        seat = self._seats[step.member] if step.member is not None else None
        if seat is not None:
            match step.move:
                case Move.BRING:
                    self.swaps += 1
                    await self._bring(seat)
                    return
                case Move.RELEASE:
                    self._drain(seat, step)
                    await self._release(seat)
                    return
                case Move.DRAIN:
                    self._drain(seat, step)
                case Move.STAY:
                    if seat.state is EngineState.DRAINING:
                        seat.state = EngineState.READY
                    seat.admit()
        # Never shorter than a tick of either clock, or the wait would be no wait.
        again_s = step.look_again_s
        timeout_s = None if again_s is None else max(TICK_S, again_s - self._now_s())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _drain(self, seat: Seat, step: Step) -> None:
        if seat.state is not EngineState.DRAINING:
            seat.state, seat.left_s = EngineState.DRAINING, self._now_s()
            log.info("swap.draining", group=self.name, deployment=seat.resident.name, reason=step.reason)

    async def _bring(self, seat: Seat) -> None:
        seat.origin, seat.state = origin_of(seat.state), EngineState.LOADING
        seat.moving, seat.moving_since_s = True, self._now_s()
        try:
            fault = await _fault_of(seat.resident.bring())
        finally:
            seat.moving = False
        if fault is not None:
            seat.state = EngineState.FAILED
            self._fail(seat, fault)
            return
        took_s = seat.brought_in_s[seat.origin] = self._now_s() - seat.moving_since_s
        log.info("swap.ready", group=self.name, deployment=seat.resident.name, took_s=round(took_s, 3))
        seat.ready()

    async def _warm_up(self, seat: Seat) -> None:
        await self._bring(seat)
        if seat.state is EngineState.READY:
            seat.state, seat.left_s = EngineState.DRAINING, self._now_s()
            while seat.running:
                self._changed.clear()
                await self._changed.wait()
            await self._release(seat)

    async def _release(self, seat: Seat) -> None:
        seat.moving, seat.moving_since_s = True, self._now_s()
        try:
            fault = await _fault_of(self._leave(seat))
        finally:
            seat.moving = False
        if fault is None:
            seat.left_in_s = self._now_s() - seat.moving_since_s
            return
        # It still holds its memory, so it goes on; those who wait for others learn that they cannot be
        # served, and nobody tries again for a while.
        for other in self._seats.values():
            if other is not seat:
                self._fail(other, f"{seat.resident.name} cannot be taken out of memory: {fault}")
        seat.ready()

    async def _find(self, seat: Seat) -> None:
        seat.state = await seat.resident.find()

    async def _leave(self, seat: Seat) -> None:
        seat.state = await seat.resident.release()

    def _fail(self, seat: Seat, fault: str) -> None:
        log.warning("swap.failed", group=self.name, deployment=seat.resident.name, error=fault)
        seat.fail(fault)


async def _fault_of(work: Awaitable[None]) -> str | None:
    """Do the work and return what it raised in words, whatever it was: no fault may end the group's task."""
    fault: BaseException | None = (await asyncio.gather(work, return_exceptions=True))[0]
    if fault is None or isinstance(fault, EngineError):
        return str(fault) if fault else None
    log.error("swap.fault", exc_info=fault)
    return f"{type(fault).__name__}: {fault}"
