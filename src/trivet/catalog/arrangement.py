"""Which tiers are in memory together, and whether their models have room. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trivet.catalog.demand import TIERS
from trivet.catalog.machine import Machine
from trivet.catalog.objective import SHARE, Access, access_factor
from trivet.catalog.offers import Offer, Way, by_turns
from trivet.domain.gpus import GIB
from trivet.domain.tiers import ModelTier

LIGHT, STANDARD, HEAVY = TIERS
ASLEEP_BYTES = GIB
"""What a vLLM that sleeps leaves on its GPU: its CUDA context and what its graphs hold. vLLM's page on sleep
mode says that more than 90 % is given back."""
Choice = Mapping[str, Offer | None]


@dataclass(frozen=True)
class Arrangement:
    """How three tiers share the memory."""

    access: Mapping[str, Access]
    moments: tuple[tuple[str, ...], ...]
    """Each a set of tiers that are in memory together; at any time one of them holds."""

    @property
    def swaps(self) -> bool:
        """Whether anything takes turns."""
        return len(self.moments) > 1

    def offers(
        self, tier: str, offers: Iterable[Offer], machine: Machine, sleepers: Collection[str]
    ) -> tuple[Offer, ...]:
        """Return a tier's offers as this arrangement can use them.

        Args:
            tier: the tier.
            offers: as they are for a model that stays.
            machine: where.
            sleepers: the tiers whose engine would sleep between its turns.
        """
        if self.access[tier] is Access.RESIDENT:
            return tuple(offers)
        others = [name for name in sleepers if name != tier and self.access[name] is not Access.RESIDENT]
        return by_turns(offers, machine, asleep=tier in sleepers, extra_bytes=ASLEEP_BYTES * len(others))

    def factor(self, tier: str) -> float:
        """Return what a point of worth counts in a tier: its share by its access."""
        return SHARE[tier] * access_factor(self.access[tier], tier)


RESIDENT = Arrangement(dict.fromkeys(TIERS, Access.RESIDENT), (TIERS,))
LIGHT_STAYS = Arrangement(
    {ModelTier.LIGHT: Access.RESIDENT, ModelTier.STANDARD: Access.SWAPPED, ModelTier.HEAVY: Access.SWAPPED},
    ((LIGHT, STANDARD), (LIGHT, HEAVY)),
)
ONE_BY_ONE = Arrangement(dict.fromkeys(TIERS, Access.ALONE), ((LIGHT,), (STANDARD,), (HEAVY,)))
ARRANGEMENTS = (RESIDENT, LIGHT_STAYS, ONE_BY_ONE)


class Rooms:
    """Free room on each device after some models were placed, in the best way for a LIGHT that comes last."""

    def __init__(self, machine: Machine) -> None:
        """Take the machine."""
        self.kinds = machine.kinds
        self.around = machine.around
        self.rooms = tuple(device.room_bytes for device in machine.devices)
        self._most = self._by_kind(self.rooms)
        self._beside: dict[int, tuple[int, ...]] = {}
        self._together: dict[tuple[int, int], tuple[int, ...] | None] = {}

    def beside(self, offer: Offer | None) -> tuple[int, ...]:
        """Return for each device the most that one model can leave free there."""
        if offer is None:
            return self.rooms
        found = self._beside.get(id(offer))
        if found is None:
            best = [0] * len(self.rooms)
            for devices, need in offer.least:
                for index, room in enumerate(self.rooms):
                    best[index] = max(best[index], room - need if index in devices else room)
            found = self._beside[id(offer)] = tuple(best)
        return found

    def after_turns(self, first: Offer | None, second: Offer | None) -> tuple[int, ...]:
        """Return for each kind the most that stays free on one device whichever of two models is there."""
        pairs = zip(self.beside(first), self.beside(second), strict=True)
        return self._by_kind([min(pair) for pair in pairs])

    def after_both(self, first: Offer | None, second: Offer | None) -> tuple[int, ...] | None:
        """Return for each kind the most that stays free on one device beside two models; None: no room."""
        key = (id(first), id(second))
        if key not in self._together:
            placed = [offer for offer in (first, second) if offer is not None]
            best = [-1] * len(self._most)
            self._place(placed, list(self.rooms), best)
            self._together[key] = tuple(best) if max(best, default=-1) >= 0 else None
        return self._together[key]

    def _place(self, offers: Sequence[Offer], free: list[int], best: list[int]) -> bool:
        """Try every set of devices for each model in turn; True when nothing better can be found."""
        if not offers:
            for kind, room in enumerate(self._by_kind(free)):
                best[kind] = max(best[kind], room)
            return tuple(best) == self._most
        tried: set[object] = set()
        for devices, need in offers[0].least:
            if min(free[index] for index in devices) < need:
                continue
            signature = (
                self.kinds[devices[0]],
                need,
                tuple(free[index] for around in self.around[devices] for index in around),
            )
            if signature in tried:
                continue
            tried.add(signature)
            for index in devices:
                free[index] -= need
            done = self._place(offers[1:], free, best)
            for index in devices:
                free[index] += need
            if done:
                return True
        return False

    def _by_kind(self, free: Sequence[int]) -> tuple[int, ...]:
        most = [-1] * (max(self.kinds, default=-1) + 1)
        for kind, room in zip(self.kinds, free, strict=True):
            most[kind] = max(most[kind], room)
        return tuple(most)

    def has_room(self, offer: Offer, free: Sequence[int]) -> bool:
        """Tell whether a model on one device finds enough of what is free by kind."""
        return any(need <= free[self.kinds[devices[0]]] for devices, need in offer.least if len(devices) == 1)


@dataclass(frozen=True)
class Usage:
    """Bytes that are free on each device at each moment."""

    arrangement: Arrangement
    machine: Machine
    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def empty(cls, arrangement: Arrangement, machine: Machine) -> "Usage":
        """Return the machine before any model is placed."""
        rooms = tuple(device.room_bytes for device in machine.devices)
        return cls(arrangement, machine, tuple(rooms for _ in arrangement.moments))

    def free(self, tier: str, devices: Sequence[int]) -> int:
        """Return what is free on the fullest of some devices at a tier's worst moment."""
        rows = [
            row for moment, row in zip(self.arrangement.moments, self.rows, strict=True) if tier in moment
        ]
        return min(row[index] for row in rows for index in devices)

    def placed(self, tier: str, devices: Sequence[int], size: int) -> "Usage":
        """Return the usage with a tier's model added in each of its moments."""
        rows = tuple(
            tuple(value - (size if index in devices else 0) for index, value in enumerate(row))
            if tier in moment
            else row
            for moment, row in zip(self.arrangement.moments, self.rows, strict=True)
        )
        return Usage(self.arrangement, self.machine, rows)


def completes(usage: Usage, rest: Sequence[tuple[str, Offer]]) -> bool:
    """Tell whether the remaining tiers' models all find room somewhere."""
    if not rest:
        return True
    tier, offer = rest[0]
    tried: set[object] = set()
    for devices, need in offer.least:
        if usage.free(tier, devices) < need:
            continue
        around = [index for some in usage.machine.around[devices] for index in some]
        signature = (
            usage.machine.kinds[devices[0]],
            need,
            tuple(row[index] for row in usage.rows for index in around),
        )
        if signature in tried:
            continue
        tried.add(signature)
        if completes(usage.placed(tier, devices, need), rest[1:]):
            return True
    return False


def ways_with_room(usage: Usage, tier: str, offer: Offer) -> Iterator[Way]:
    """Yield the ways of an offer that still have room."""
    for way in offer.ways:
        if usage.free(tier, way.devices) >= way.bytes:
            yield way
