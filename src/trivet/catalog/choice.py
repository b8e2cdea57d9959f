"""The best set of models for a machine: an exact search, cut short by bounds. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trivet.catalog.arrangement import (
    ARRANGEMENTS,
    HEAVY,
    LIGHT,
    LIGHT_STAYS,
    RESIDENT,
    STANDARD,
    Arrangement,
    Rooms,
)
from trivet.catalog.machine import Machine
from trivet.catalog.objective import FIGURE_TOLERANCE, GOODNESS, LIGHT_SHARE_MAX, SERVED, STEP_MIN, thrift
from trivet.catalog.offers import Offer

_EPSILON = 1e-9


@dataclass(frozen=True)
class Chosen:
    """The winner: an offer for each tier that could be served, how they share the memory, and the score."""

    offers: Mapping[str, Offer]
    arrangement: Arrangement
    objective: float


def choose(
    machine: Machine,
    offers: Mapping[str, Sequence[Offer]],
    *,
    sleepers: Collection[str] = (),
    place: float = 1.0,
    above: float = 0.0,
) -> Chosen | None:
    """Return the set of offers with the highest objective; None when none exceeds `above`.

    Args:
        machine: the devices.
        offers: each tier's, highest worth first; a tier that is missing is not wanted.
        sleepers: tiers whose engine would sleep, not leave, where models take turns.
        place: the objective's factor for this kind of machine.
        above: an objective that is already had.
    """
    search = _Search(machine, offers, sleepers, place)
    search.best = above
    search.through_all()
    if search.chosen is None and search.must:
        # Pins that are never in memory beside one another, nor in turns: as many of them as can be.
        search.must = frozenset()
        search.through_all()
    return search.chosen


@dataclass(frozen=True, slots=True)
class _Valued:
    """An offer, or none, and what it adds to the objective under some HEAVY."""

    value: float
    offer: Offer | None


class _Search:
    def __init__(
        self,
        machine: Machine,
        offers: Mapping[str, Sequence[Offer]],
        sleepers: Collection[str],
        place: float,
    ) -> None:
        self.machine = machine
        self.rooms = Rooms(machine)
        self.all = {tier: tuple(offers.get(tier, ())) for tier in (LIGHT, STANDARD, HEAVY)}
        self.offers: dict[str, tuple[Offer | None, ...]] = {}
        self.sleepers = sleepers
        self.must = frozenset(tier for tier, some in self.all.items() if any(one.pinned for one in some))
        """Tiers with a pinned model that fits the machine: the others make way for it."""
        self.used: list[dict[str, tuple[Offer | None, ...]]] = []
        """Offers are known by their identity while a search goes on, so none of them may go away."""
        self.place = place
        self.best = 0.0
        self.chosen: Chosen | None = None

    def through_all(self) -> None:
        """Go through all arrangements."""
        for arrangement in ARRANGEMENTS:
            self.through(arrangement)

    def through(self, arrangement: Arrangement) -> None:
        """Go through the models of one arrangement, best first, as long as they can still win."""
        factor = {tier: GOODNESS * self.place * arrangement.factor(tier) for tier in self.all}
        if sum(_most(factor[tier], offers) for tier, offers in self.all.items()) <= self.best:
            return
        self.offers = {
            tier: self._or_none(tier, arrangement.offers(tier, offers, self.machine, self.sleepers))
            for tier, offers in self.all.items()
        }
        self.used.append(self.offers)
        most = sum(_most(factor[tier], self.offers[tier]) for tier in (LIGHT, STANDARD))
        for big in self.offers[HEAVY]:
            heavy = _value(factor[HEAVY], big)
            if heavy + most <= self.best + _EPSILON:
                break
            lights = self._under(big, LIGHT, factor[LIGHT])
            if arrangement is LIGHT_STAYS:
                lights = [small for small in lights if small.offer is not None]
            for middle in self._under(big, STANDARD, factor[STANDARD]):
                pair = heavy + middle.value
                if not lights or pair + lights[0].value <= self.best + _EPSILON:
                    break
                free = self._free(arrangement, big, middle.offer)
                if free is not None:
                    self._lights(arrangement, pair, lights, middle.offer, big, free)

    def _or_none(self, tier: str, offers: Sequence[Offer]) -> tuple[Offer | None, ...]:
        """Let a tier go empty, unless the user pinned a model that fits."""
        return tuple(offers) if tier in self.must else (*offers, None)

    def _under(self, big: Offer | None, tier: str, factor: float) -> list[_Valued]:
        """Return the offers that a tier may have under a HEAVY, the most valuable first."""
        heavy = None if big is None else big.effective_params
        valued = [
            _Valued(_value(factor * thrift(tier, _effective(offer), heavy), offer), offer)
            for offer in self.offers[tier]
            if _below(offer, big) and (tier != LIGHT or _light_of(offer, big))
        ]
        return sorted(valued, key=lambda one: -one.value)

    def _lights(
        self,
        arrangement: Arrangement,
        pair: float,
        lights: Sequence[_Valued],
        middle: Offer | None,
        big: Offer | None,
        free: Sequence[int],
    ) -> None:
        for small in lights:
            value = pair + small.value
            if value <= self.best + _EPSILON:
                return
            if _a_step_below(small.offer, middle) and (
                small.offer is None or self.rooms.has_room(small.offer, free)
            ):
                self._take(arrangement, value, small.offer, middle, big)
                return

    def _free(
        self, arrangement: Arrangement, big: Offer | None, middle: Offer | None
    ) -> tuple[int, ...] | None:
        if arrangement is RESIDENT:
            return self.rooms.after_both(big, middle)
        if arrangement is LIGHT_STAYS:
            return self.rooms.after_turns(big, middle)
        return self.rooms.after_both(None, None)

    def _take(self, arrangement: Arrangement, value: float, *offers: Offer | None) -> None:
        named = zip((LIGHT, STANDARD, HEAVY), offers, strict=True)
        self.best = value
        self.chosen = Chosen({tier: offer for tier, offer in named if offer is not None}, arrangement, value)


def _effective(offer: Offer | None) -> float:
    return 0.0 if offer is None else offer.effective_params


def _value(factor: float, offer: Offer | None) -> float:
    return 0.0 if offer is None else SERVED + factor * offer.worth


def _most(factor: float, offers: Sequence[Offer | None]) -> float:
    """Return what the best of a tier's offers can add to the objective."""
    return _value(factor, offers[0]) if offers else 0.0


def _below(lower: Offer | None, upper: Offer | None) -> bool:
    """Tell whether a model may serve the tier below another's: neither better nor dearer; pins always may."""
    if lower is None or upper is None:
        return True
    if lower.card.id == upper.card.id:
        return False
    if lower.pinned or upper.pinned:
        return True
    near = lower.figure <= upper.figure + FIGURE_TOLERANCE
    return near and lower.active_params <= upper.active_params


def _a_step_below(small: Offer | None, middle: Offer | None) -> bool:
    if small is None or middle is None:
        return True
    far = small.pinned or middle.pinned or STEP_MIN * small.active_params <= middle.active_params
    return far and _below(small, middle)


def _light_of(small: Offer | None, big: Offer | None) -> bool:
    if small is None or big is None or small.pinned or big.pinned:
        return True
    return small.active_params <= LIGHT_SHARE_MAX * big.active_params
