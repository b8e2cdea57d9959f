"""From chosen models to deployments: engine, form and GPUs of each; what is left becomes KV cache. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trivet.catalog.arrangement import HEAVY, LIGHT, STANDARD, Usage, completes, ways_with_room
from trivet.catalog.choice import Chosen
from trivet.catalog.demand import Demand
from trivet.catalog.machine import Device, Machine
from trivet.catalog.offers import Offer, Way
from trivet.catalog.sizing import Load, Need, Sizer
from trivet.domain.gpus import GIB

SERVER_CLASS_BYTES = 40 * GIB
"""From this size on a GPU is one for many users, and vLLM is preferred to Ollama where both would do."""
SEQUENCES_WANTED = 32
"""So many full contexts at once a vLLM tier gets if memory is left; beyond that it only waits on
bandwidth."""
_ROOMY_SEQUENCES = 8

_ORDER = (HEAVY, STANDARD, LIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One tier's model where it will run."""

    offer: Offer
    way: Way
    load: Load
    need: Need


def realise(chosen: Chosen, machine: Machine, demand: Demand, sizer: Sizer) -> dict[str, Placed]:
    """Return the deployment of each chosen tier: the dearest tier picks first, and none takes what another
    must have.

    Afterwards what is free goes to the vLLM engines as KV cache, HEAVY first.
    """
    usage = Usage.empty(chosen.arrangement, machine)
    tiers = [tier for tier in _ORDER if tier in chosen.offers]
    placed: dict[str, Placed] = {}
    for position, tier in enumerate(tiers):
        rest = [(name, chosen.offers[name]) for name in tiers[position + 1 :]]
        offer = chosen.offers[tier]
        way, usage = _best_way(usage, tier, offer, rest, machine)
        load = Load(context_tokens=demand[tier].context_tokens, sequences=demand[tier].sequences)
        placed[tier] = Placed(offer=offer, way=way, load=load, need=way.need)
    return _filled(placed, usage, machine, sizer)


def _best_way(
    usage: Usage, tier: str, offer: Offer, rest: list[tuple[str, Offer]], machine: Machine
) -> tuple[Way, Usage]:
    ways = sorted(
        ways_with_room(usage, tier, offer),
        key=lambda way: _preference(usage, tier, way, machine),
        reverse=True,
    )
    for way in ways:
        after = usage.placed(tier, way.devices, way.bytes)
        if completes(after, rest):
            return way, after
    msg = f"the search found room for {offer.card.id} in {tier} that its realisation did not"
    raise AssertionError(msg)


def _preference(usage: Usage, tier: str, way: Way, machine: Machine) -> tuple[float, ...]:
    """Return what makes one way better than another of the same worth, most important first.

    The engine that suits the GPU; no waiting for other GPUs through PCIe; room for some more sequences; few
    GPUs; GPUs that are empty; speed.
    """
    devices = [machine.devices[index] for index in way.devices]
    on_vllm = way.variant.engine == "vllm"
    suits = on_vllm == is_server_class(devices[0])
    left = usage.free(tier, way.devices) - way.bytes
    spare = left // max(1, way.need.kv_bytes_per_sequence) if on_vllm else _ROOMY_SEQUENCES
    near = len(devices) == 1 or devices[0].spec.connect == "nvlink"
    return (suits, near, min(spare, _ROOMY_SEQUENCES), -len(devices), left // GIB, way.need.tokens_per_s)


def is_server_class(device: Device) -> bool:
    """Tell whether a GPU is one for many users."""
    own = not device.spec.unified and not device.is_host
    return own and device.spec.usable_bytes >= SERVER_CLASS_BYTES


def _filled(placed: Mapping[str, Placed], usage: Usage, machine: Machine, sizer: Sizer) -> dict[str, Placed]:
    """Give vLLM engines more sequences while memory lasts, in the order of the tiers."""
    result = dict(placed)
    hungry = [tier for tier in _ORDER if tier in placed and placed[tier].way.variant.engine == "vllm"]
    for position, tier in enumerate(hungry):
        one = result[tier]
        # Those that come later, on the same GPUs, keep their part of what is free.
        sharing = 1 + sum(
            1 for other in hungry[position + 1 :] if set(placed[other].way.devices) & set(one.way.devices)
        )
        allowed = one.need.bytes + usage.free(tier, one.way.devices) // sharing
        grown = _grown(one, allowed, machine, sizer)
        usage = usage.placed(tier, one.way.devices, grown.need.bytes - one.need.bytes)
        result[tier] = grown
    return result


def _grown(one: Placed, allowed: int, machine: Machine, sizer: Sizer) -> Placed:
    """Return the deployment with as many sequences as the allowed bytes hold, at most SEQUENCES_WANTED."""
    spec = machine.devices[one.way.devices[0]].spec
    low, high = one.load.sequences, max(one.load.sequences, SEQUENCES_WANTED)
    best = one
    while low < high:
        middle = (low + high + 1) // 2
        load = replace(one.load, sequences=middle)
        need = sizer.need(one.offer.card, one.way.variant, spec, len(one.way.devices), load)
        if need.bytes <= allowed:
            best, low = replace(one, load=load, need=need), middle
        else:
            high = middle - 1
    return best
