"""The search finds what trying everything finds."""

import itertools
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import scaled
from tests.unit.catalog.made_cards import dense_card, mixture_card
from trivet.catalog.arrangement import ARRANGEMENTS, LIGHT_STAYS, Arrangement
from trivet.catalog.choice import choose
from trivet.catalog.demand import TIERS, read_demand
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.machine import Machine, gpu_machine
from trivet.catalog.model_card import Catalog
from trivet.catalog.objective import FIGURE_TOLERANCE, GOODNESS, LIGHT_SHARE_MAX, SERVED, STEP_MIN, thrift
from trivet.catalog.offers import Offer, tier_offers
from trivet.catalog.sizing import Sizer

TABLE = load_gpu_table()
CATALOG = Catalog([*(dense_card(size) for size in (0.5, 1.5, 4, 14, 32, 70)), mixture_card(30)])
SIZER = Sizer()
GPUS = ("RTX 3070", "RTX 3060 12GB", "RTX 3090", "A100 40GB", "L40S", "H100")
SLEEPERS = ("standard",)
Choice = dict[str, Offer | None]


def fits(machine: Machine, arrangement: Arrangement, choice: Choice) -> bool:
    """Tell by trying every set of devices for every model whether a choice has room at every moment."""
    named = [(tier, offer) for tier, offer in choice.items() if offer is not None]
    for ways in itertools.product(*(offer.ways for _, offer in named)):
        for moment in arrangement.moments:
            used = [0] * len(machine.devices)
            for (tier, _), way in zip(named, ways, strict=True):
                for index in way.devices if tier in moment else ():
                    used[index] += way.bytes
            if any(used[device.index] > device.room_bytes for device in machine.devices):
                break
        else:
            return True
    return False


def allowed(choice: Choice) -> bool:
    """Tell whether the models may be in these tiers together."""
    light, standard, heavy = (choice[tier] for tier in TIERS)
    for lower, upper in ((light, standard), (light, heavy), (standard, heavy)):
        if lower and upper:
            if lower.card.id == upper.card.id or lower.active_params > upper.active_params:
                return False
            if lower.figure > upper.figure + FIGURE_TOLERANCE:
                return False
    if light and standard and STEP_MIN * light.active_params > standard.active_params:
        return False
    return not (light and heavy and light.active_params > LIGHT_SHARE_MAX * heavy.active_params)


def scores(machine: Machine, offers: dict[str, Sequence[Offer]]) -> Iterator[float]:
    """Yield the objective of every plan there is."""
    for arrangement in ARRANGEMENTS:
        columns: list[list[Offer | None]] = [
            [*arrangement.offers(tier, offers[tier], machine, SLEEPERS), None] for tier in TIERS
        ]
        for picked in itertools.product(*columns):
            choice: Choice = dict(zip(TIERS, picked, strict=True))
            if arrangement is LIGHT_STAYS and choice["light"] is None:
                continue
            if not allowed(choice):
                continue
            heavy = choice["heavy"].effective_params if choice["heavy"] else None
            value = sum(
                SERVED
                + GOODNESS
                * arrangement.factor(tier)
                * offer.worth
                * thrift(tier, offer.effective_params, heavy)
                for tier, offer in choice.items()
                if offer is not None
            )
            if fits(machine, arrangement, choice):
                yield value


@settings(max_examples=scaled(25))
@given(names=st.lists(st.sampled_from(GPUS), min_size=1, max_size=2))
def test_nothing_is_better_than_the_choice(names: list[str]) -> None:
    """On machines with one or two GPUs the choice scores what the best of all plans scores."""
    machine = gpu_machine(read_gpus(",".join(names), TABLE), TABLE)
    demand = read_demand()
    offers: dict[str, Sequence[Offer]] = {
        tier: tier_offers(tier, demand[tier], CATALOG, machine, SIZER).offers for tier in TIERS
    }
    chosen = choose(machine, offers, sleepers=SLEEPERS)
    best = max(scores(machine, offers), default=0.0)
    assert abs((chosen.objective if chosen else 0.0) - best) < 1e-6


def test_nothing_is_chosen_from_nothing() -> None:
    """Without offers there is no plan."""
    machine = gpu_machine(read_gpus("H100", TABLE), TABLE)
    assert choose(machine, {}) is None


def test_a_plan_must_beat_what_is_had() -> None:
    """An objective that is already had is not replaced by the same one."""
    machine = gpu_machine(read_gpus("RTX3090", TABLE), TABLE)
    demand = read_demand()
    offers = {tier: tier_offers(tier, demand[tier], CATALOG, machine, SIZER).offers for tier in TIERS}
    chosen = choose(machine, offers)
    assert chosen is not None
    assert choose(machine, offers, above=chosen.objective) is None
