"""FallbackChain: tiers in order, until one answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from trivet import FallbackChain, ModelTier
from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import ManualClock
from trivet.domain.errors import (
    ConfigError,
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineIncapable,
    EngineRejected,
    EngineUnavailable,
    RequestMalformed,
)
from trivet.sdk.model_names import tier_named
from trivet.sdk.router_face import ModelConfig

MESSAGES = [{"role": "user", "content": "Hello"}]
LIGHT, STANDARD, HEAVY = (
    ModelConfig(tier=tier, model_id=f"test/{tier}", cost_weight=1.0, temperature=0.5, max_tokens=100)
    for tier in ModelTier
)


class Engines:
    """A client of engines that answer with their name, or fail as they are told."""

    def __init__(self, **faults: BaseException) -> None:
        self.faults: dict[str, BaseException] = {f"test/{tier}": fault for tier, fault in faults.items()}
        self.calls: list[tuple[str | None, dict[str, Any]]] = []

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> str:
        """Answer with the model's name."""
        self.calls.append((model, {"temperature": temperature, "max_tokens": max_tokens, **kwargs}))
        assert messages == MESSAGES
        if model in self.faults:
            raise self.faults[model]
        return f"from {model}"

    @property
    def asked(self) -> list[str | None]:
        """Return the models that were asked, in order."""
        return [model for model, _ in self.calls]


@pytest.fixture
def clock() -> ManualClock:
    """A clock for breakers."""
    return ManualClock()


@pytest.fixture
def chain(clock: ManualClock) -> FallbackChain:
    """A chain of three tiers whose breakers open at the second failure in a row."""
    execution = ExecutionSettings(breaker_consecutive_failures=2)
    return FallbackChain(tiers=[LIGHT, STANDARD, HEAVY], execution=execution, clock=clock)


@pytest.mark.parametrize(
    ("preferred", "asked"),
    [
        (None, ["test/light", "test/standard", "test/heavy"]),
        (HEAVY, ["test/heavy", "test/light", "test/standard"]),
        (ModelTier.STANDARD, ["test/standard", "test/light", "test/heavy"]),
        ("standard", ["test/standard", "test/light", "test/heavy"]),
    ],
)
async def test_order(chain: FallbackChain, preferred: Any, asked: list[str]) -> None:
    """The preferred tier is tried first, then the others in their order; all that fail are listed."""
    engines = Engines(**{tier: EngineUnavailable(f"no {tier}") for tier in ("light", "standard", "heavy")})
    with pytest.raises(EngineUnavailable) as caught:
        await chain.execute_with_fallback(engines, MESSAGES, preferred_tier=preferred)
    assert engines.asked == asked
    assert caught.value.message == f"no {asked[-1].removeprefix('test/')}"
    assert caught.value.details["attempts"] == [
        {"tier": model.removeprefix("test/"), "model": model, "code": "upstream_unavailable"}
        for model in asked
    ]


async def test_the_first_answer_counts(chain: FallbackChain) -> None:
    """The answer comes with the tier that gave it; nobody else is asked."""
    engines = Engines(light=EngineBusy("full"))
    assert await chain.execute_with_fallback(engines, MESSAGES) == ("from test/standard", STANDARD)
    assert engines.asked == ["test/light", "test/standard"]


async def test_a_preferred_tier_beyond_the_chain(chain: FallbackChain) -> None:
    """A ModelConfig need not be in the chain to be tried first."""
    extra = ModelConfig(tier=tier_named("cloud"), model_id="test/cloud", cost_weight=40.0)
    answer = await chain.execute_with_fallback(Engines(), MESSAGES, preferred_tier=extra)
    assert answer == ("from test/cloud", extra)


async def test_a_preferred_variant_is_not_tried_twice(chain: FallbackChain) -> None:
    """A routed copy of a tier, with another temperature, replaces the chain's own."""
    routed = ModelConfig(tier=ModelTier.HEAVY, model_id="test/heavy", cost_weight=1.0, temperature=0.0)
    engines = Engines(heavy=EngineBroken("500"))
    _, config = await chain.execute_with_fallback(engines, MESSAGES, preferred_tier=routed)
    assert (config, engines.asked) == (LIGHT, ["test/heavy", "test/light"])


async def test_options_reach_every_attempt(chain: FallbackChain) -> None:
    """The tier's temperature and length are sent unless the call says otherwise; the rest is passed on."""
    engines = Engines(light=EngineBusy("full"))
    await chain.execute_with_fallback(engines, MESSAGES, max_tokens=7, seed=1)
    assert [options for _, options in engines.calls] == [{"temperature": 0.5, "max_tokens": 7, "seed": 1}] * 2


async def test_a_rejected_request_is_tried_nowhere_else(chain: FallbackChain) -> None:
    """What is wrong with the request itself is wrong everywhere."""
    engines = Engines(light=EngineRejected("bad field", status=400))
    with pytest.raises(EngineRejected) as caught:
        await chain.execute_with_fallback(engines, MESSAGES)
    assert engines.asked == ["test/light"]
    assert caught.value.details["attempts"] == [
        {"tier": "light", "model": "test/light", "code": "upstream_rejected"}
    ]


async def test_other_errors_are_not_caught(chain: FallbackChain) -> None:
    """A mistake of the caller's own client is no reason to try another tier."""
    engines = Engines(light=ConfigError("no such thing"))
    with pytest.raises(ConfigError):
        await chain.execute_with_fallback(engines, MESSAGES)
    assert engines.asked == ["test/light"]


async def test_a_failing_model_is_left_alone_for_a_while(chain: FallbackChain, clock: ManualClock) -> None:
    """After two failures in a row its breaker opens; when the time has passed, it is tried again."""
    engines = Engines(light=EngineBroken("500"))
    for _ in range(3):
        await chain.execute_with_fallback(engines, MESSAGES)
    assert engines.asked == ["test/light", "test/standard"] * 2 + ["test/standard"]
    engines.faults.clear()
    clock.advance(10)
    assert (await chain.execute_with_fallback(engines, MESSAGES))[1] == LIGHT


@pytest.mark.parametrize(
    "fault",
    [ContextOverflow("too long"), EngineIncapable("no n"), EngineRejected("bad"), ConfigError("mine")],
)
async def test_what_is_not_the_models_fault_opens_no_breaker(chain: FallbackChain, fault: Exception) -> None:
    """Bad requests say nothing about the model."""
    engines = Engines(**dict.fromkeys(("light", "standard", "heavy"), fault))
    for _ in range(5):
        with pytest.raises(type(fault)):
            await chain.execute_with_fallback(engines, MESSAGES)
    assert engines.asked.count("test/light") == 5


async def test_all_breakers_open(clock: ManualClock) -> None:
    """When nobody may be asked, the error says when to come back."""
    chain = FallbackChain([LIGHT], execution=ExecutionSettings(breaker_consecutive_failures=1), clock=clock)
    engines = Engines(light=EngineBroken("500"))
    with pytest.raises(EngineBroken):
        await chain.execute_with_fallback(engines, MESSAGES)
    with pytest.raises(EngineUnavailable, match="circuit breakers") as caught:
        await chain.execute_with_fallback(engines, MESSAGES)
    assert 0 < (caught.value.retry_after_s or 0) <= 5
    assert caught.value.details["attempts"] == [
        {"tier": "light", "model": "test/light", "code": "circuit_open"}
    ]


async def test_an_unknown_preference(chain: FallbackChain) -> None:
    """A tier that the chain does not have is a mistake, named."""
    with pytest.raises(RequestMalformed, match=r"cloud.*light, standard, heavy"):
        await chain.execute_with_fallback(Engines(), MESSAGES, preferred_tier="cloud")


def test_an_empty_chain() -> None:
    """A chain without tiers can never answer."""
    with pytest.raises(ConfigError, match="at least one"):
        FallbackChain(tiers=[])
