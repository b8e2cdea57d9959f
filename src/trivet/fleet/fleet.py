"""All endpoints together, opened and closed as one."""

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from trivet.config.settings import FleetSettings
from trivet.domain.decisions import Offer
from trivet.engines.connect import open_session
from trivet.engines.litellm import load_library
from trivet.engines.protocol import Transport
from trivet.fleet.endpoint import Endpoint, EndpointPlan


class Fleet:
    """The engines of this node. Use as an async context manager."""

    def __init__(self, plans: Sequence[EndpointPlan], settings: FleetSettings) -> None:
        self._plans = tuple(plans)
        self._settings = settings
        self._endpoints: dict[str, Endpoint] = {}
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Launch and probe all engines at once; return when each has a first state, be it `down`."""
        async with contextlib.AsyncExitStack() as exits:
            session = await exits.enter_async_context(open_session())
            for plan in self._plans:
                endpoint = Endpoint(plan, self._settings, session)
                self._endpoints[plan.deployment.name] = endpoint
                exits.push_async_callback(endpoint.close)
            if any(plan.deployment.transport == "litellm" for plan in self._plans):
                # Seconds of import, which the first request should not pay for.
                await asyncio.to_thread(load_library)
            await asyncio.gather(*(endpoint.begin() for endpoint in self._endpoints.values()))
            watchers = [
                asyncio.create_task(endpoint.watch(), name=f"watch-{name}")
                for name, endpoint in self._endpoints.items()
            ]
            exits.push_async_callback(_cancel_all, watchers)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching, then stop the launched engines."""
        await self._exits.aclose()

    def offers(self) -> tuple[Offer, ...]:
        """Return every deployment with its present state, in configuration order."""
        return tuple(endpoint.offer() for endpoint in self._endpoints.values())

    def lease(self, name: str) -> AbstractContextManager[Transport]:
        """Lend the transport of a deployment for one attempt."""
        return self._endpoints[name].lease()

    def report(self) -> list[dict[str, Any]]:
        """Return all endpoints as the API shows them."""
        return [endpoint.report() for endpoint in self._endpoints.values()]


async def _cancel_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
