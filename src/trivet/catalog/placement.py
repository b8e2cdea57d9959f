"""The planner: from a machine and a demand to the best plan. Pure; docs/guides/plan.md says how."""

import math
from collections.abc import Mapping
from dataclasses import replace

from trivet.catalog.arrangement import RESIDENT
from trivet.catalog.choice import Chosen, choose
from trivet.catalog.demand import TIERS, Demand
from trivet.catalog.machine import GpuKinds, Machine, gpu_machine, host_machine
from trivet.catalog.machine_notes import machine_notes
from trivet.catalog.model_card import Catalog
from trivet.catalog.objective import CPU_PLACE, CROWDED_PLACE, FAMILY_FACTOR, GOODNESS, SERVED, Access
from trivet.catalog.offers import Offer, TierOffers, tier_offers
from trivet.catalog.plan import DevicePlan, Mode, Plan, TierPlan
from trivet.catalog.realisation import Placed, is_server_class, realise
from trivet.catalog.rejections import rejections
from trivet.catalog.sizing import BATCHED_TOKENS, OLLAMA_SEQUENCES_MAX, Sizer, dtype_of
from trivet.domain.gpus import Inventory
from trivet.domain.tiers import ModelTier

CROWDED_SEQUENCES_MAX = 8
"""So many sequences Ollama may serve where vLLM finds too little room; with more each would crawl."""
_UTILIZATION_STEPS = 100_000
_WORTH_MAX = 100.0 * FAMILY_FACTOR


def make_plan(
    inventory: Inventory, demand: Demand, catalog: Catalog, table: GpuKinds, *, sizer: Sizer | None = None
) -> Plan:
    """Return the plan with the highest objective for a machine.

    There always is one; what nothing fits is in `unserved`.

    Args:
        inventory: the machine, measured or described.
        demand: what each tier is asked to do.
        catalog: the models to choose from.
        table: the GPUs that are known.
        sizer: knows the footprints of former plans; for many plans in a row.

    Raises:
        ConfigError: a pinned model is not in the catalog.
    """
    sizer = sizer or Sizer()
    machine = gpu_machine(inventory, table)
    offers = _offers(demand, catalog, machine, sizer)
    chosen = choose(machine, _by_tier(offers), sleepers=_sleepers(demand)) if machine.devices else None
    crowded = _crowded(demand)
    if machine.devices and crowded is not None:
        on_ollama = _offers(crowded, catalog, machine, sizer)
        above = chosen.objective if chosen else 0.0
        found = choose(machine, _by_tier(on_ollama), place=CROWDED_PLACE, above=above)
        if found is not None:
            offers, chosen = on_ollama, found
    # On the CPU a plan counts for less; it is looked for only where it could still win.
    pinned = any(one.pin is not None for one in demand.tiers.values())
    most = len(demand.tiers) * SERVED + GOODNESS * CPU_PLACE * _WORTH_MAX
    if chosen is None or (chosen.objective < most and not pinned):
        host = host_machine(inventory)
        host_offers = _offers(demand, catalog, host, sizer)
        above = chosen.objective if chosen else 0.0
        on_host = choose(host, _by_tier(host_offers), place=CPU_PLACE, above=above)
        if on_host is not None or not machine.devices:
            machine, offers, chosen = host, host_offers, on_host
    return _plan(inventory, demand, machine, offers, chosen, sizer)


def _crowded(demand: Demand) -> Demand | None:
    """Return the demand for Ollama alone where it asks for more sequences than Ollama is meant for.

    vLLM's own needs leave little of a small GPU, and many users on Ollama there are better off than on a CPU.
    """
    most = max(one.sequences for one in demand.tiers.values())
    either = any(one.engines > {"ollama"} for one in demand.tiers.values())
    if not (either and OLLAMA_SEQUENCES_MAX < most <= CROWDED_SEQUENCES_MAX):
        return None
    return demand.changed(None, engines=frozenset({"ollama"}))


def _sleepers(demand: Demand) -> frozenset[str]:
    """Return the tiers that only vLLM can serve; where models take turns the others are Ollama's."""
    return frozenset(
        tier
        for tier, one in demand.tiers.items()
        if one.engines == {"vllm"} or (one.sequences > OLLAMA_SEQUENCES_MAX and "vllm" in one.engines)
    )


def _offers(demand: Demand, catalog: Catalog, machine: Machine, sizer: Sizer) -> list[TierOffers]:
    return [
        tier_offers(tier, demand[tier], catalog, machine, sizer) for tier in TIERS if tier in demand.tiers
    ]


def _by_tier(offers: list[TierOffers]) -> dict[str, tuple[Offer, ...]]:
    return {found.tier: found.offers for found in offers}


def _plan(
    inventory: Inventory,
    demand: Demand,
    machine: Machine,
    offers: list[TierOffers],
    chosen: Chosen | None,
    sizer: Sizer,
) -> Plan:
    chosen = _settled(chosen)
    arrangement = chosen.arrangement if chosen else RESIDENT
    placed = realise(chosen, machine, demand, sizer) if chosen else {}
    tiers = {
        tier: _tier(tier, placed[tier], machine, arrangement.access[tier], sizer)
        for tier in TIERS
        if tier in placed
    }
    mode: Mode = "cpu" if machine.on_cpu else "swap" if arrangement.swaps else "resident"
    return Plan(
        inventory=inventory,
        demand=demand,
        mode=mode,
        objective=chosen.objective if chosen else 0.0,
        arrangement=arrangement,
        tiers=tiers,
        devices=tuple(_devices(machine, tiers, arrangement.moments)),
        rejected=tuple(one for found in offers for one in rejections(found, chosen.offers if chosen else {})),
        notes=(*_notes(demand, machine, tiers), *machine_notes(inventory, machine)),
    )


def _settled(chosen: Chosen | None) -> Chosen | None:
    """Return the winner as resident where the tiers that have a model are in memory together anyway."""
    if chosen is None or not any(
        chosen.offers.keys() <= set(moment) for moment in chosen.arrangement.moments
    ):
        return chosen
    return replace(chosen, arrangement=RESIDENT)


def _tier(tier: str, placed: Placed, machine: Machine, access: Access, sizer: Sizer) -> TierPlan:
    way, card = placed.way, placed.offer.card
    devices = tuple(machine.devices[index] for index in way.devices)
    spec, variant = devices[0].spec, way.variant
    seen = sizer.seen(variant, spec, len(devices))
    utilization = None
    if variant.engine == "vllm":
        # Rounded down, which what it needs allows for.
        share = placed.need.total_bytes / spec.usable_bytes
        utilization = math.floor(share * _UTILIZATION_STEPS) / _UTILIZATION_STEPS
    return TierPlan(
        tier=tier,
        card=card,
        variant=variant,
        devices=devices,
        context_tokens=placed.load.context_tokens,
        sequences=placed.load.sequences,
        footprint=sizer.size(card, variant, spec, len(devices), placed.load, utilization),
        gpu_memory_utilization=utilization,
        batched_tokens=BATCHED_TOKENS if variant.engine == "vllm" else None,
        dtype=dtype_of(variant, spec),
        worth=placed.offer.worth,
        tokens_per_s=placed.need.tokens_per_s,
        swapped=access is not Access.RESIDENT,
        asleep_bytes=way.extra_bytes,
        observed_at=seen.observed_at if seen is not None else None,
    )


def _devices(
    machine: Machine, tiers: Mapping[str, TierPlan], moments: tuple[tuple[str, ...], ...]
) -> list[DevicePlan]:
    """Return how full each device gets at its worst moment: the one with the most in use."""
    plans: list[DevicePlan] = []
    for device in machine.devices:
        there = max(
            (
                [tiers[name] for name in moment if name in tiers and device in tiers[name].devices]
                for moment in moments
            ),
            key=lambda some: sum(tier.used_bytes for tier in some),
        )
        plans.append(
            DevicePlan(
                device=device,
                used_bytes=sum(tier.used_bytes for tier in there),
                weights_bytes=sum(tier.footprint.weights_bytes for tier in there),
                kv_bytes=sum(tier.footprint.kv_bytes for tier in there),
                margin_bytes=device.reserve_bytes + sum(tier.band_bytes for tier in there),
            )
        )
    return plans


def _notes(demand: Demand, machine: Machine, tiers: Mapping[str, TierPlan]) -> list[str]:
    notes: list[str] = []
    used = {device.index for tier in tiers.values() for device in tier.devices}
    empty = len(machine.devices) - len(used)
    if tiers and empty:
        gpus = "1 GPU stays" if empty == 1 else f"{empty} GPUs stay"
        notes.append(f"{gpus} empty: room for further deployments of a tier, or for other work.")
    few = [
        name
        for name, tier in tiers.items()
        if tier.variant.engine == "ollama"
        and "vllm" in demand[name].engines
        and any(is_server_class(device) for device in tier.devices)
    ]
    if few:
        notes.append(
            f"{' and '.join(few)}: on Ollama for few users at once; for many plan with --demand sequences=8."
        )
    if not machine.on_cpu and any(
        tier.variant.engine == "ollama"
        and tier.sequences > OLLAMA_SEQUENCES_MAX
        and "vllm" in demand[name].engines
        for name, tier in tiers.items()
    ):
        notes.append("On Ollama, although many at once are vLLM's work: vLLM finds too little room here.")
    light, heavy = tiers.get(ModelTier.LIGHT), tiers.get(ModelTier.HEAVY)
    if light and heavy and 3 * light.card.active_params > heavy.card.active_params:
        notes.append(
            "LIGHT has more than a third of HEAVY's active parameters, because of a pin; it saves little."
        )
    notes += [
        f"{name} is sized by what it took on {tier.observed_at}."
        for name, tier in tiers.items()
        if tier.observed_at
    ]
    return notes
