"""`FallbackChain`: tiers in order, until one answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from trivet.config.settings import ExecutionSettings
from trivet.domain.clock import Clock, SystemClock
from trivet.domain.errors import (
    ConfigError,
    ContextOverflow,
    EngineError,
    EngineIncapable,
    EngineRejected,
    EngineUnavailable,
    RequestMalformed,
)
from trivet.domain.tiers import ModelTier
from trivet.execution.breaker import Breakers, Pass
from trivet.sdk.router_face import ModelConfig

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class CompletesChats(Protocol[Answer_co]):
    """What the chain asks of a client: LLMClient, or any that names models as the ModelConfigs do."""

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> Answer_co:
        """Return one whole answer, or raise an EngineError."""
        ...


class FallbackChain:
    """Tries the preferred tier, then the others in order, with a circuit breaker for each model.

    Keep one chain for many requests: the breakers remember which model fails. Not for several threads.
    """

    def __init__(
        self,
        tiers: Sequence[ModelConfig],
        *,
        execution: ExecutionSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take the tiers in the order in which they are to be tried.

        Args:
            tiers: at least one.
            execution: when the breakers open and for how long; by default as Trivet's own.
            clock: of the breakers.

        Raises:
            ConfigError: there is no tier.
        """
        if not tiers:
            raise ConfigError("A fallback chain needs at least one tier.", param="tiers")
        self._tiers = tuple(tiers)
        self._breakers = Breakers(execution or ExecutionSettings(), clock or SystemClock())

    async def execute_with_fallback(
        self,
        llm_client: CompletesChats[Answer],
        messages: Sequence[Mapping[str, Any]],
        preferred_tier: ModelConfig | ModelTier | str | None = None,
        **kwargs: Any,
    ) -> tuple[Answer, ModelConfig]:
        """Return the first answer and the tier that gave it.

        Args:
            llm_client: the way to the engines.
            messages: OpenAI chat messages.
            preferred_tier: tried first: a ModelConfig, in the chain or not, or a tier of the chain.
            kwargs: passed to every attempt; `temperature` and `max_tokens` replace the tiers' own.

        Raises:
            EngineError: the last one, when no tier answered or when it is the request that is at fault;
                `details["attempts"]` lists what was tried.
            RequestMalformed: `preferred_tier` names no tier of the chain.
        """
        attempts: list[dict[str, str]] = []
        last: EngineError | None = None
        for config in self._order(preferred_tier):
            leave = self._breakers.of(config.model_id).ask()
            if leave is None:
                attempts.append(_attempt(config, "circuit_open"))
                continue
            try:
                answer = await self._complete(llm_client, messages, config, leave, kwargs)
            except EngineError as error:
                attempts.append(_attempt(config, error.code))
                error.details["attempts"] = attempts
                last = error
                if not error.retryable:
                    raise
            else:
                return answer, config
        if last is not None:
            raise last
        raise EngineUnavailable(
            "No tier can take the request now: the circuit breakers of all are open.",
            retry_after_s=self._retry_after_s(),
            details={"attempts": attempts},
        )

    async def _complete(
        self,
        llm_client: CompletesChats[Answer],
        messages: Sequence[Mapping[str, Any]],
        config: ModelConfig,
        leave: Pass,
        options: Mapping[str, Any],
    ) -> Answer:
        """Make one attempt, and tell its breaker what became of it."""
        breaker = self._breakers.of(config.model_id)
        arguments = {"temperature": config.temperature, "max_tokens": config.max_tokens, **options}
        try:
            answer = await llm_client.complete(messages=messages, model=config.model_id, **arguments)
        except (EngineRejected, EngineIncapable, ContextOverflow):
            breaker.returned(leave)
            raise
        except EngineError:
            breaker.failed(leave)
            raise
        except BaseException:  # cancelled, or the caller's fault: the model is not to blame
            breaker.returned(leave)
            raise
        breaker.succeeded(leave)
        return answer

    def _order(self, preferred: ModelConfig | ModelTier | str | None) -> list[ModelConfig]:
        if preferred is None:
            return list(self._tiers)
        if not isinstance(preferred, ModelConfig):
            named = [config for config in self._tiers if config.tier == preferred]
            if not named:
                raise RequestMalformed(
                    f"preferred_tier: the chain has no tier {str(preferred)!a}.",
                    hint=f"It has {', '.join(config.tier for config in self._tiers)}.",
                    param="preferred_tier",
                )
            preferred = named[0]
        others = [config for config in self._tiers if config.model_id != preferred.model_id]
        return [preferred, *others]

    def _retry_after_s(self) -> float:
        waits = [self._breakers.of(config.model_id).retry_after_s or 0.0 for config in self._tiers]
        return min(waits) or 1.0


def _attempt(config: ModelConfig, code: str) -> dict[str, str]:
    return {"tier": config.tier.value, "model": config.model_id, "code": code}
