"""What each tier has to be able to do: the demand that a plan serves. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trivet.domain.errors import ConfigError
from trivet.domain.tiers import ModelTier

TIERS: tuple[str, ...] = tuple(tier.value for tier in ModelTier)
ENGINES = frozenset({"ollama", "vllm"})
CAPABILITIES = frozenset({"tools", "vision", "thinking"})
DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_SEQUENCES = 1
"""Each tier's least number of requests at once, every one with its whole context. An Ollama as it is
installed answers one at a time (OLLAMA_NUM_PARALLEL=1), and vLLM gets more from whatever memory is left."""
CONTEXT_MAX = 16 * 1024 * 1024
SEQUENCES_MAX = 4096

_HINT = "Write for example context=16384,sequences=8,tools or heavy:context=32768,vision."
_NUMBER = re.compile(r"^(\d+)\s*([kK]?)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierDemand:
    """What one tier is asked to do."""

    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    """Prompt and output together, in tokens."""
    sequences: int = DEFAULT_SEQUENCES
    """Requests at once, each with its whole context."""
    capabilities: frozenset[str] = frozenset()
    """Of tools, vision, thinking."""
    families: tuple[str, ...] = ()
    """Preferred families (`qwen`); their models count for more, see `catalog.objective`."""
    engines: frozenset[str] = ENGINES
    """The engines that may run it."""
    pin: str | None = None
    """The model that the user wants here, by card id or by one of its references."""

    def as_json(self) -> dict[str, Any]:
        """Return it for the doors."""
        return {
            "context_tokens": self.context_tokens,
            "sequences": self.sequences,
            "capabilities": sorted(self.capabilities),
            "families": list(self.families),
            "engines": sorted(self.engines),
            "pin": self.pin,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the tiers are asked to do; `tiers` holds every tier that is wanted."""

    tiers: Mapping[str, TierDemand] = field(default_factory=lambda: dict.fromkeys(TIERS, TierDemand()))

    def __getitem__(self, tier: str) -> TierDemand:
        return self.tiers[tier]

    def changed(self, tier: str | None, **values: Any) -> "Demand":
        """Return it with values replaced in one tier, or in all."""
        return Demand(
            tiers={
                name: replace(demand, **values) if tier in (None, name) else demand
                for name, demand in self.tiers.items()
            }
        )


def read_demand(
    texts: Iterable[str] = (),
    *,
    pins: Iterable[str] = (),
    families: Iterable[str] = (),
    engines: Iterable[str] = (),
) -> Demand:
    """Return the demand that options describe; later texts win over earlier ones.

    Args:
        texts: `context=16384,sequences=8,tools`, or of one tier `heavy:context=32768,vision`.
        pins: `heavy=qwen2.5-72b-instruct`.
        families: preferred families, for all tiers.
        engines: the engines that there are; by default all.

    Raises:
        ConfigError: a part is not understood; says what can be written.
    """
    demand = Demand()
    for text in texts:
        demand = _with_text(demand, text)
    preferred = tuple(name.strip().lower() for text in families for name in text.split(",") if name.strip())
    allowed = frozenset(name.strip().lower() for name in engines) or ENGINES
    if not allowed <= ENGINES:
        raise _refused(
            "engine", ", ".join(sorted(allowed - ENGINES)), f"planned are {', '.join(sorted(ENGINES))}"
        )
    demand = demand.changed(None, families=preferred, engines=allowed)
    for pin in pins:
        tier, sign, model = pin.partition("=")
        if not sign or not model.strip():
            raise _refused("pin", pin, "a pin is TIER=MODEL, such as heavy=qwen2.5-72b-instruct")
        demand = demand.changed(_tier(tier, "pin", pin), pin=model.strip())
    return demand


def demand_texts(document: Any) -> list[str]:
    """Return what a demands file says in the words of the option, so that both are read by one reader.

    The document is a mapping of `context`, `sequences`, `capabilities` (a list) and, under `tiers`, the same
    by tier.

    Raises:
        ConfigError: it has another shape.
    """
    if not isinstance(document, dict):
        raise _refused("demand", str(document)[:80], "a demands file is a mapping")
    tiers = document.get("tiers")
    tiers = {} if tiers is None else tiers
    overall = _as_text({key: value for key, value in document.items() if key != "tiers"})
    if not isinstance(tiers, dict) or not all(isinstance(values, dict) for values in tiers.values()):
        raise _refused("demand", "tiers", "`tiers` maps each tier's name to its own mapping")
    by_tier = [f"{name}:{_as_text(values)}" for name, values in tiers.items() if values]
    return [text for text in (overall, *by_tier) if text]


def _as_text(values: Mapping[str, Any]) -> str:
    words = [f"{key}={value}" for key, value in values.items() if key != "capabilities"]
    return ",".join([*words, *(str(name) for name in values.get("capabilities") or ())])


def _with_text(demand: Demand, text: str) -> Demand:
    scope, colon, rest = text.partition(":")
    tier = _tier(scope, "demand", text) if colon else None
    for word in (rest if colon else text).split(","):
        name, sign, value = (part.strip() for part in word.strip().partition("="))
        key = name.lower().replace("-", "_")
        if not key:
            continue
        if not sign and key in CAPABILITIES:
            demand = Demand(
                tiers={
                    one: replace(old, capabilities=old.capabilities | {key}) if tier in (None, one) else old
                    for one, old in demand.tiers.items()
                }
            )
        elif key in ("context", "context_tokens"):
            demand = demand.changed(tier, context_tokens=_count(value, word, CONTEXT_MAX))
        elif key == "sequences":
            demand = demand.changed(tier, sequences=_count(value, word, SEQUENCES_MAX))
        else:
            known = ", ".join(sorted(CAPABILITIES))
            raise _refused("demand", word.strip(), f"known are context=N, sequences=N and {known}")
    return demand


def _count(value: str, word: str, most: int) -> int:
    found = _NUMBER.match(value)
    number = int(found[1]) * (1024 if found[2] else 1) if found else 0
    if not 1 <= number <= most:
        raise _refused("demand", word.strip(), f"the number is from 1 to {most}")
    return number


def _tier(name: str, param: str, text: str) -> str:
    tier = name.strip().lower()
    if tier not in TIERS:
        raise _refused(param, text, f"the tiers are {', '.join(TIERS)}")
    return tier


def _refused(param: str, text: str, why: str) -> ConfigError:
    return ConfigError(f"{param}: {text!r} is not understood: {why}.", hint=_HINT, param=param)
