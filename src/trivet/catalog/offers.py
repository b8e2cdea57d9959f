"""Which models could serve a tier on a machine, best first, and why the others cannot. Pure."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from trivet.catalog.demand import TierDemand
from trivet.catalog.forms import Form
from trivet.catalog.gpu_spec import GpuSpec
from trivet.catalog.machine import Machine
from trivet.catalog.model_card import Catalog, ModelCard, Variant
from trivet.catalog.objective import FAMILY_FACTOR, effective_params
from trivet.catalog.sizing import SPLIT_MIN_BYTES, Load, Need, Sizer, obstacle
from trivet.catalog.tool_parsers import tool_parser
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB
from trivet.domain.tiers import ModelTier

RATE_MIN: dict[str, float] = {ModelTier.LIGHT: 15.0, ModelTier.STANDARD: 8.0, ModelTier.HEAVY: 4.0}
"""Tokens a second of one sequence below which nobody waits for a tier; LIGHT is what people watch."""
THINKING_RATE_FACTOR = 5.0
"""A model that always thinks first writes some times as many tokens as its answer has; it has to be as much
faster."""

_ALWAYS_THINKING = ("thinking", "reasoning", "-r1", "qwq")
"""Words in the ids of models that cannot answer without thinking first."""


@dataclass(frozen=True, slots=True)
class Way:
    """One form of a model on one set of devices that has room for it alone."""

    variant: Variant
    devices: tuple[int, ...]
    need: Need
    extra_bytes: int = 0
    """What is taken on each device besides, by engines that sleep there."""

    @property
    def bytes(self) -> int:
        """The room that has to be there on each device."""
        return self.need.bytes + self.extra_bytes


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
            found[way.devices] = min(way.bytes, found.get(way.devices, way.bytes))
        return tuple(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def by_turns(
    offers: Iterable[Offer], machine: Machine, *, asleep: bool, extra_bytes: int
) -> tuple[Offer, ...]:
    """Return the offers as they can take turns with others: on one GPU each, on one kind of engine.

    Args:
        offers: a tier's.
        machine: where.
        asleep: whether its engine is vLLM, which sleeps between its turns; else Ollama, which unloads.
        extra_bytes: what the others leave on the GPU while they sleep.
    """
    turned = (
        dataclasses.replace(
            offer,
            ways=tuple(
                dataclasses.replace(way, extra_bytes=extra_bytes) if extra_bytes else way
                for way in offer.ways
                if len(way.devices) == 1
                and (way.variant.engine != "vllm" or asleep)
                and way.need.bytes + extra_bytes <= machine.room_of(way.devices)
            ),
        )
        for offer in offers
    )
    return tuple(offer for offer in turned if offer.ways)


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
    examiner = _Examiner(tier, demand, machine, sizer, pinned_ref)
    offers: list[Offer] = []
    rejected: list[Rejection] = []
    for card in catalog.cards if pinned_card is None else (pinned_card,):
        reason = _unfit(card, tier, demand)
        if reason is None:
            found, reason = examiner.offers_of(card)
            offers += found
        if reason is not None:
            value = 0.0 if card.is_embedding else max(form.worth[tier] for form in sizer.forms(card))
            rejected.append(Rejection(model=card.id, tier=tier, reason=reason, value=value))
    if pinned_card is not None:
        rejected += [
            Rejection(model=card.id, tier=tier, reason=f"{pinned_card.id} is pinned here")
            for card in catalog.cards
            if card.id != pinned_card.id
        ]
    offers.sort(key=lambda offer: (-offer.worth, offer.card.id))
    return TierOffers(tier, tuple(offers), tuple(rejected))


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
    if tier != ModelTier.HEAVY and _always_thinks(card):
        return "always thinks before it answers, which only heavy is for"
    return None


def _always_thinks(card: ModelCard) -> bool:
    return any(word in card.id for word in _ALWAYS_THINKING)


class _Examiner:
    """Looks at cards for one tier of one machine."""

    def __init__(
        self, tier: str, demand: TierDemand, machine: Machine, sizer: Sizer, pinned_ref: str | None
    ) -> None:
        self.tier = tier
        self.demand = demand
        self.machine = machine
        self.sizer = sizer
        self.pinned_ref = pinned_ref
        self.load = Load(context_tokens=demand.context_tokens, sequences=demand.sequences)

    def offers_of(self, card: ModelCard) -> tuple[list[Offer], str | None]:
        """Return a card's offers, one for each precision; without any, the reason nearest to a yes."""
        preferred = any(name in card.family.lower() or name in card.id for name in self.demand.families)
        factor = FAMILY_FACTOR if preferred else 1.0
        best: dict[float, Form] = {}
        ways: dict[float, list[Way]] = {}
        served: set[tuple[float, str, str]] = set()
        reasons = _Reasons()
        for form in self.sizer.forms(card):
            if self.pinned_ref not in (None, form.variant.ref):
                continue
            found = self._ways(card, form, served, reasons)
            if found:
                best.setdefault(form.precision, form)
                ways.setdefault(form.precision, []).extend(found)
        pinned = self.demand.pin is not None
        offers = [
            Offer(card, factor * form.worth[self.tier], form.figure, tuple(ways[precision]), pinned)
            for precision, form in best.items()
        ]
        return offers, None if offers else reasons.closest()

    def _ways(
        self, card: ModelCard, form: Form, served: set[tuple[float, str, str]], reasons: "_Reasons"
    ) -> list[Way]:
        """Return the sets of devices that have room for a form alone.

        Of two forms of one precision for one engine the lighter one is enough on the GPUs that run it: FP8
        before BF16. `served` remembers which those are.
        """
        if (
            form.variant.engine == "vllm"
            and "tools" in self.demand.capabilities
            and tool_parser(card) is None
        ):
            reasons.cannot("vLLM has no parser for its tool calls")
            return []
        found: list[Way] = []
        runs: set[tuple[float, str, str]] = set()
        for tp, kind, windows in self.machine.kinds_of_windows:
            if tp > 1 and (self.tier == ModelTier.LIGHT or form.weights_bytes < tp * SPLIT_MIN_BYTES):
                continue
            key = (form.precision, form.variant.engine, kind)
            if key in served:
                continue
            spec = self.machine.devices[windows[0][0]].spec
            problem = obstacle(card, form.variant, spec, tp, self.demand.sequences, self.demand.engines)
            if problem is not None:
                reasons.cannot(problem)
                continue
            runs.add(key)
            need = self._need(card, form, spec, tp, self.machine.room_of(windows[0]), reasons)
            if need is not None:
                found += [
                    Way(form.variant, window, need)
                    for window in windows
                    if self.machine.room_of(window) >= need.bytes
                ]
        served |= runs
        return found

    def _need(
        self, card: ModelCard, form: Form, spec: GpuSpec, tp: int, room: int, reasons: "_Reasons"
    ) -> Need | None:
        """Return what a form needs where the roomiest set has `room`; None where that is no use."""
        # Weights alone say no without a footprint; headers and names may be off by some per cent.
        if 0.9 * form.weights_bytes / tp > room:
            reasons.too_large(form.weights_bytes // tp, room, tp, spec.name, weights_alone=True)
            return None
        need = self.sizer.need(card, form.variant, spec, tp, self.load)
        least = RATE_MIN[self.tier] * (THINKING_RATE_FACTOR if _always_thinks(card) else 1.0)
        if need.tokens_per_s < least and self.demand.pin is None:
            reasons.too_slow(need.tokens_per_s, self.tier, least)
            return None
        if need.bytes > room:
            reasons.too_large(need.bytes, room, tp, spec.name)
            return None
        return need


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

    def too_slow(self, rate: float, tier: str, least: float) -> None:
        if self._slow is None or rate > self._slow[0]:
            thinks = " of a model that always thinks first" if least > RATE_MIN[tier] else ""
            text = f"about {rate:.1f} tokens/s for one sequence; {tier} wants {least:g}{thinks}"
            self._slow = (rate, text)

    def closest(self) -> str:
        if self._slow is not None:
            return self._slow[1]
        if self._large is not None:
            return self._large[1]
        return self._cannot or "has no form for the engines here"
