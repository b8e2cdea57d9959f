"""Which models could serve a tier on a machine, best first, and why the others cannot. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from trivet.catalog.demand import TierDemand
from trivet.catalog.machine import Machine
from trivet.catalog.model_card import Catalog, ModelCard, Variant
from trivet.catalog.objective import NO_GROWTH, effective_params, figure, label_of, precision_factor, worth
from trivet.catalog.sizing import SPLIT_MIN_BYTES, Load, Need, Sizer, obstacle
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB
from trivet.domain.tiers import ModelTier

RATE_MIN: dict[str, float] = {ModelTier.LIGHT: 15.0, ModelTier.STANDARD: 8.0, ModelTier.HEAVY: 4.0}
"""Tokens a second of one sequence below which nobody waits for a tier; LIGHT is what people watch."""

_ALWAYS_THINKING = ("thinking", "reasoning", "-r1", "qwq")
"""Words in the ids of models that cannot answer without thinking first."""

_BITS = {
    "float32": 32.0, "fp32": 32.0, "q8_0": 8.5, "q6_k": 6.56, "q5_k_m": 5.7, "q5_0": 5.5, "q4_k_m": 4.85,
    "q4_0": 4.5, "q3_k_m": 3.9, "q2_k": 3.0, "awq": 4.25, "gptq": 4.25, "int4": 4.25, "bnb": 4.5,
    "nvfp4": 4.5, "mxfp4": 4.25, "fp8": 8.0, "w8a8": 8.0, "int8": 8.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """One form of a model on one set of devices that has room for it alone."""

    variant: Variant
    devices: tuple[int, ...]
    need: Need


@dataclass(frozen=True, eq=False)
class Offer:
    """One model at one precision in one tier: what it is worth, and the ways to run it."""

    card: ModelCard
    worth: float
    figure: float
    ways: tuple[Way, ...]
    pinned: bool = False

    @cached_property
    def active_params(self) -> int:
        """What a token costs to compute, in parameters."""
        return self.card.active_params

    @cached_property
    def effective_params(self) -> float:
        """The size of a dense model that knows as much."""
        return effective_params(self.card.total_params, self.active_params)

    @cached_property
    def least(self) -> tuple[tuple[tuple[int, ...], int], ...]:
        """For each set of devices the fewest bytes that any form takes of each; smallest sets first."""
        found: dict[tuple[int, ...], int] = {}
        for way in self.ways:
            found[way.devices] = min(way.need.bytes, found.get(way.devices, way.need.bytes))
        return tuple(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a model does not serve a tier."""

    model: str
    tier: str
    reason: str
    value: float = 0.0
    """What it would be worth there, for the order of the list; 0 where that does not matter."""

    def as_json(self) -> dict[str, str]:
        """Return it for the doors."""
        return {"model": self.model, "tier": self.tier, "reason": self.reason}


@dataclass(frozen=True)
class TierOffers:
    """A tier's offers, highest worth first, and what was rejected before any was compared."""

    tier: str
    offers: tuple[Offer, ...]
    rejected: tuple[Rejection, ...]


def tier_offers(
    tier: str, demand: TierDemand, catalog: Catalog, machine: Machine, sizer: Sizer
) -> TierOffers:
    """Return every offer of a tier that fits the machine alone.

    Raises:
        ConfigError: the pinned model is not in the catalog; says which are near.
    """
    pinned_card, pinned_ref = _pinned(demand, catalog, tier)
    offers: list[Offer] = []
    rejected: list[Rejection] = []
    for card in catalog.cards if pinned_card is None else (pinned_card,):
        reason = _unfit(card, tier, demand)
        if reason is None:
            found, reason = _of_card(card, pinned_ref, tier, demand, machine, sizer)
            offers += found
        if reason is not None:
            rejected.append(Rejection(model=card.id, tier=tier, reason=reason, value=_most_worth(card, tier)))
    if pinned_card is not None:
        rejected += [
            Rejection(model=card.id, tier=tier, reason=f"{pinned_card.id} is pinned here")
            for card in catalog.cards
            if card.id != pinned_card.id
        ]
    offers.sort(key=lambda offer: (-offer.worth, offer.card.id))
    return TierOffers(tier, tuple(offers), tuple(rejected))


def _most_worth(card: ModelCard, tier: str) -> float:
    """Return what a model's best form is worth in a tier, wherever it may run."""
    return max(worth(card, variant, bits_of(variant), tier) for variant in card.variants)


def bits_of(variant: Variant) -> float:
    """Return a form's bits per weight, by its figure or by its name."""
    if variant.bits_per_weight is not None:
        return variant.bits_per_weight
    return _BITS.get(label_of(variant), 16.0)


def _pinned(demand: TierDemand, catalog: Catalog, tier: str) -> tuple[ModelCard | None, str | None]:
    """Return the pinned card, and the reference where the pin names one form of it."""
    if demand.pin is None:
        return None, None
    exact = catalog.with_variant(demand.pin)
    if exact is not None:
        card, variant = exact
        # `qwen2.5:32b` is what people call the model; a further tag, or a Hugging Face id, is one form of it.
        tags = [one.ref for one in card.variants if one.engine == "ollama"]
        return card, None if variant.ref in tags[:1] else variant.ref
    try:
        return catalog.find(demand.pin), None
    except ConfigError as error:
        raise ConfigError(
            f"--pin {tier}: {error.message}", hint=error.hint, param="pin", details=error.details
        ) from None


def _unfit(card: ModelCard, tier: str, demand: TierDemand) -> str | None:
    if card.is_embedding:
        return "makes embeddings, not answers"
    if demand.context_tokens > card.context_tokens:
        return f"its context ends at {card.context_tokens} tokens"
    missing = sorted(demand.capabilities - card.capabilities)
    if demand.pin is not None:
        return None
    if missing:
        return f"cannot do {', '.join(missing)}"
    if tier != ModelTier.HEAVY and any(word in card.id for word in _ALWAYS_THINKING):
        return "always thinks before it answers, which only heavy is for"
    return None


def _of_card(
    card: ModelCard, ref: str | None, tier: str, demand: TierDemand, machine: Machine, sizer: Sizer
) -> tuple[list[Offer], str | None]:
    """Return a card's offers, one for each precision; without any, the reason that comes closest to a yes."""
    preferred = any(name in card.family.lower() or name in card.id.lower() for name in demand.families)
    by_precision: dict[float, list[Way]] = {}
    values: dict[float, tuple[float, float]] = {}
    reasons = _Reasons()
    for variant in sorted(card.variants, key=bits_of):
        if ref is not None and variant.ref != ref:
            continue
        bits = bits_of(variant)
        precision = precision_factor(bits, label_of(variant))
        # Of two forms of one precision for one engine the lighter one is enough: FP8 before BF16.
        if any(way.variant.engine == variant.engine for way in by_precision.get(precision, ())):
            continue
        ways = _ways(card, variant, bits, tier, demand, machine, sizer, reasons)
        if ways:
            by_precision.setdefault(precision, []).extend(ways)
            values.setdefault(
                precision,
                (worth(card, variant, bits, tier, preferred=preferred), figure(card, variant, bits)),
            )
    pinned = demand.pin is not None
    growing = {precision_factor(bits_of(one), label_of(one)) for one in card.variants if one.engine == "vllm"}
    values = {
        precision: (value if precision in growing else value * NO_GROWTH, order)
        for precision, (value, order) in values.items()
    }
    offers = [
        Offer(card, *values[precision], tuple(ways), pinned) for precision, ways in by_precision.items()
    ]
    return offers, None if offers else reasons.closest()


def _ways(
    card: ModelCard,
    variant: Variant,
    bits: float,
    tier: str,
    demand: TierDemand,
    machine: Machine,
    sizer: Sizer,
    reasons: "_Reasons",
) -> list[Way]:
    load = Load(context_tokens=demand.context_tokens, sequences=demand.sequences)
    weights = variant.weights_bytes or int(card.total_params * bits / 8)
    found: list[Way] = []
    for tp, sets in machine.windows.items():
        if tp > 1 and (tier == ModelTier.LIGHT or weights < tp * SPLIT_MIN_BYTES):
            continue
        for kind, windows in _by_kind(machine, sets):
            devices = machine.devices
            spec = devices[windows[0][0]].spec
            problem = obstacle(card, variant, spec, tp, demand.sequences)
            if problem is not None:
                reasons.cannot(problem)
                continue
            room = max(min(devices[index].room_bytes for index in window) for window in windows)
            # Weights alone say no without a footprint; headers and names may be off by some per cent.
            if 0.9 * weights / tp > room:
                reasons.too_large(weights // tp, room, tp, kind, weights_alone=True)
                continue
            need = sizer.need(card, variant, spec, tp, load)
            if need.tokens_per_s < RATE_MIN[tier] and demand.pin is None:
                reasons.too_slow(need.tokens_per_s, tier)
                continue
            fitting = [w for w in windows if min(devices[i].room_bytes for i in w) >= need.bytes]
            if not fitting:
                reasons.too_large(need.bytes, room, tp, kind)
            found += [Way(variant, window, need) for window in fitting]
    return found


def _by_kind(machine: Machine, sets: Sequence[tuple[int, ...]]) -> list[tuple[str, list[tuple[int, ...]]]]:
    groups: dict[str, list[tuple[int, ...]]] = {}
    for window in sets:
        groups.setdefault(machine.devices[window[0]].spec.name, []).append(window)
    return list(groups.items())


class _Reasons:
    """Collects why the forms of one card do not do, and keeps the one that is nearest to a yes."""

    def __init__(self) -> None:
        self._cannot: str | None = None
        self._large: tuple[int, str] | None = None
        self._slow: tuple[float, str] | None = None

    def cannot(self, problem: str) -> None:
        self._cannot = self._cannot or problem

    def too_large(self, needed: int, room: int, tp: int, kind: str, *, weights_alone: bool = False) -> None:
        missing = needed - room
        if self._large is None or missing < self._large[0]:
            what = "weights alone take" if weights_alone else "needs"
            where = f"on each of {tp} {kind}" if tp > 1 else f"on one {kind}"
            text = f"{what} {needed / GIB:.1f} GiB {where}; {max(room, 0) / GIB:.1f} can be planned"
            self._large = (missing, text)

    def too_slow(self, rate: float, tier: str) -> None:
        if self._slow is None or rate > self._slow[0]:
            text = f"about {rate:.1f} tokens/s for one sequence; {tier} wants {RATE_MIN[tier]:g}"
            self._slow = (rate, text)

    def closest(self) -> str:
        if self._slow is not None:
            return self._slow[1]
        if self._large is not None:
            return self._large[1]
        return self._cannot or "has no form for the engines here"
