"""The swap groups of a fleet: who is in which, and how a member's turn shows in offers and reports."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
import structlog

from trivet.config.settings import SwapSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState
from trivet.fleet.endpoint import Endpoint
from trivet.fleet.residency import Rules
from trivet.fleet.residents import member_of
from trivet.fleet.seat import Place
from trivet.fleet.swap_group import SwapGroup

log = structlog.get_logger(__name__)

PAUSE_AFTER_FAULT_S = 1.0


class SwapGroups:
    """Made once from a fleet's endpoints; `lead` each group in a task of its own."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        settings: SwapSettings,
        session: aiohttp.ClientSession,
        clock: Clock,
    ) -> None:
        """Take the endpoints by name, in the order of the configuration."""
        self._endpoints = endpoints
        self._group_of: dict[str, SwapGroup] = {}
        self.groups: list[SwapGroup] = []
        rules = Rules(minimum_residency_s=settings.minimum_residency_s, max_wait_s=settings.max_wait_s)
        members: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints.values():
            name = endpoint.deployment.swap_group
            if name is not None:
                members.setdefault(name, []).append(endpoint)
        for name, those in members.items():
            residents = [member_of(each, session, sleep_level=settings.sleep_level) for each in those]
            group = SwapGroup(name, residents, rules, clock)
            self.groups.append(group)
            self._group_of |= {each.deployment.name: group for each in those}
        self._all = [(endpoint, self._group_of.get(name)) for name, endpoint in endpoints.items()]

    def of(self, name: str) -> SwapGroup | None:
        """Return the group of a deployment."""
        return self._group_of.get(name)

    async def lead(self, group: SwapGroup) -> None:
        """Let a group act until cancelled, as soon as its attached members have been looked at."""
        attached = [each for each in self._members(group) if not each.is_launched]
        await asyncio.gather(*(endpoint.settled.wait() for endpoint in attached))
        await group.begin()
        while True:
            # It ends with us only; after a fault of ours in it, its members' requests still need an answer.
            fault = (await asyncio.gather(group.run(), return_exceptions=True))[0]
            log.error("swap.fault", group=group.name, exc_info=fault)
            await asyncio.sleep(PAUSE_AFTER_FAULT_S)

    def begins_soon(self, group: SwapGroup) -> bool:
        """Tell whether the group's first member is there within seconds, as a rule."""
        return all(endpoint.starts_soon for endpoint in self._members(group))

    async def place(self, name: str, wait_s: float, on_wait: Callable[[], None]) -> Place | None:
        """Return a place on a member as soon as it is its turn; None for who is in no group.

        Raises:
            EngineUnavailable, EngineLoading: see `SwapGroup.place`.
        """
        group = self._group_of.get(name)
        if group is None:
            return None
        place = group.take(name)
        if place is None:
            on_wait()
            place = await group.place(name, wait_s=wait_s)
        return place

    def offers(self) -> tuple[Offer, ...]:
        """Return every endpoint as routing sees it, turns considered, in the order of the configuration."""
        return tuple(
            [
                endpoint.offer() if group is None else _in_turn(endpoint.offer(), group)
                for endpoint, group in self._all
            ]
        )

    def offer(self, endpoint: Endpoint) -> Offer:
        """Return the endpoint as routing sees it, its turn considered."""
        offer = endpoint.offer()
        group = self._group_of.get(offer.deployment.name)
        return offer if group is None else _in_turn(offer, group)

    def report(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return the endpoint as the API shows it, with its turn."""
        shown, offer = endpoint.report(), self.offer(endpoint)
        name = offer.deployment.name
        group = self._group_of.get(name)
        if group is None:
            return shown | {"swap_group": None, "waiting": 0, "wait_s": offer.wait_s}
        return shown | {
            "state": offer.state,
            "detail": group.fault(name) or shown["detail"],
            "swap_group": group.name,
            "waiting": group.waiting(name),
            "wait_s": None if offer.wait_s is None else round(offer.wait_s, 1),
        }

    def _members(self, group: SwapGroup) -> list[Endpoint]:
        return [self._endpoints[name] for name, its in self._group_of.items() if its is group]


def _in_turn(offer: Offer, group: SwapGroup) -> Offer:
    """Return the offer of a member with its turn in the group."""
    name = offer.deployment.name
    state, waiting = group.state(name), group.waiting(name)
    if state is EngineState.READY:
        return replace(offer, in_flight=offer.in_flight + waiting)
    # What the endpoint itself found out is more than that it has not its turn.
    own = offer.state in (EngineState.PULLING, EngineState.DOWN)
    return replace(
        offer,
        state=offer.state if own else state,
        in_flight=offer.in_flight + waiting,
        wait_s=None if own else group.expected_wait_s(name),
    )
