"""All endpoints together, opened and closed as one."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import structlog

from trivet.config.settings import FleetSettings
from trivet.domain.clock import Clock, SystemClock
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState
from trivet.engines.connect import open_session
from trivet.engines.litellm import load_library
from trivet.fleet.endpoint import Endpoint
from trivet.fleet.engine_room import EngineRoom
from trivet.fleet.launcher import end_leftovers
from trivet.fleet.plan import EndpointPlan
from trivet.fleet.swap_groups import SwapGroups

log = structlog.get_logger(__name__)

FIRST_STATE_WAIT_S = 20.0
"""How long opening waits for engines that start soon; what takes longer goes on behind."""


class Fleet:
    """The engines of this node. Use as an async context manager."""

    def __init__(
        self,
        plans: Sequence[EndpointPlan],
        settings: FleetSettings,
        state_dir: Path | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Take what there shall be, and the directory in which launched engines are remembered.

        Without a directory they are remembered, and their logs kept, only while the fleet is open.
        """
        self._plans = tuple(plans)
        self._settings = settings
        self._state_dir = state_dir
        self._clock = clock or SystemClock()
        self._endpoints: dict[str, Endpoint] = {}
        self._swaps: SwapGroups | None = None
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Launch and probe all engines at once; return when each has a first state, whatever it is.

        Engines that take minutes to load, and those that take longer than FIRST_STATE_WAIT_S, are not waited
        for: they are `loading`.

        Raises:
            StoreUnavailable: the directory of launched engines cannot be used.
            StoreLocked: another Trivet uses it.
        """
        async with contextlib.AsyncExitStack() as exits:
            session = await exits.enter_async_context(open_session())
            room = await self._open_room(exits)
            for plan in self._plans:
                self._endpoints[plan.deployment.name] = Endpoint(plan, self._settings, session, room)
            exits.push_async_callback(self._close_endpoints)
            if any(plan.deployment.transport == "litellm" for plan in self._plans):
                # Seconds of import, which the first request should not pay for.
                await asyncio.to_thread(load_library)
            watchers = [
                asyncio.create_task(endpoint.watch(), name=f"watch-{name}")
                for name, endpoint in self._endpoints.items()
            ]
            swaps = self._swaps = SwapGroups(self._endpoints, self._settings.swap, session, self._clock)
            watchers += [
                asyncio.create_task(swaps.lead(group), name=f"swap-{group.name}") for group in swaps.groups
            ]
            exits.push_async_callback(_cancel_all, watchers)
            awaited = [
                endpoint.settled.wait()
                for endpoint in self._endpoints.values()
                if endpoint.starts_soon and swaps.of(endpoint.deployment.name) is None
            ]
            awaited += [group.begun.wait() for group in swaps.groups if swaps.begins_soon(group)]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*awaited), FIRST_STATE_WAIT_S)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching; then stop the launched engines, or leave them, as `fleet.on_exit` says."""
        await self._exits.aclose()

    def offers(self) -> tuple[Offer, ...]:
        """Return every deployment with its present state, in configuration order."""
        return self._groups.offers()

    @property
    def swap_counts(self) -> dict[str, int]:
        """Return how often each swap group has brought a model that requests waited for."""
        return {group.name: group.swaps for group in self._groups.groups}

    def endpoint(self, name: str) -> Endpoint:
        """Return a deployment's endpoint: the same one for as long as the fleet is open."""
        return self._endpoints[name]

    def wish(self, name: str) -> None:
        """Note that a request goes elsewhere only because it would have had to wait for this deployment."""
        group = self._groups.of(name)
        if group is not None:
            group.wish(name)

    async def ensure_ready(
        self, name: str, *, left_s: float, last: bool, on_wait: Callable[[], None]
    ) -> AbstractContextManager[object]:
        """Wait for a model that is on its way, or has to get its turn; return the place to hold meanwhile.

        One that has failed is not waited for: the request finds that out by itself, at once. But where nobody
        else can serve, one that served, died and is being started again is.

        Args:
            name: the deployment.
            left_s: what is left of the request's time.
            last: there is no other candidate, so all of it may be waited for.
            on_wait: called before a wait.

        Raises:
            EngineLoading: the model did not come in time.
            EngineUnavailable: it cannot be loaded now.
        """
        if self._endpoints[name].is_there:
            return contextlib.nullcontext()
        group, standing = self._groups.of(name), self._endpoints[name].standing
        wait_s = left_s if last else min(left_s / 2, self._longest_wait_s(name))
        if group is not None and standing.health.state is EngineState.PULLING:
            # A download takes no memory: it comes first, and nobody makes room meanwhile.
            on_wait()
            began_s = asyncio.get_running_loop().time()
            await standing.settled(name, wait_s)
            wait_s = max(0.0, wait_s - (asyncio.get_running_loop().time() - began_s))
        place = await self._groups.place(name, wait_s, on_wait)
        # Whoever has its turn may be coming back after a crash.
        if EngineState(standing.health.state).is_coming or (last and standing.is_coming):
            on_wait()
            try:
                await standing.settled(name, wait_s)
            except BaseException:
                if place is not None:
                    place.release()
                raise
        return place or contextlib.nullcontext()

    def report(self) -> list[dict[str, Any]]:
        """Return all endpoints as the API shows them."""
        return [self._groups.report(endpoint) for endpoint in self._endpoints.values()]

    @property
    def _groups(self) -> SwapGroups:
        if self._swaps is None:
            raise RuntimeError("the fleet is not open")
        return self._swaps

    def _longest_wait_s(self, name: str) -> float:
        """Return how long a request waits for a deployment while others could take it, too."""
        expected_s = self._groups.offer(self._endpoints[name]).wait_s
        return self._settings.swap.max_wait_s + (expected_s or 0.0)

    async def _close_endpoints(self) -> None:
        """Close all at once: an engine may take seconds to end."""
        closing = (endpoint.close() for endpoint in self._endpoints.values())
        for fault in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(fault, BaseException):
                log.error("engine.not_closed", error=str(fault), exc_info=fault)

    async def _open_room(self, exits: contextlib.AsyncExitStack) -> EngineRoom | None:
        """Open the room of launched engines, and end what earlier Trivets left there for nobody."""
        launched = {plan.deployment.name for plan in self._plans if plan.launch is not None}
        directory = self._state_dir
        if directory is None:
            if not launched:
                return None
            directory = Path(exits.enter_context(TemporaryDirectory(prefix="trivet-engines-")))
        elif not launched and not directory.exists():
            return None
        keep = self._settings.on_exit == "keep"
        room = exits.enter_context(EngineRoom.opened(directory, keep=keep, clock=self._clock))
        await end_leftovers(room.records.load(), room.records, launched)
        return room


async def _cancel_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
