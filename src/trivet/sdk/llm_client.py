"""`LLMClient`: one chat completion from one deployment, with nothing to open and nothing to close."""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trivet.config.deployments import api_key_of, build_deployments, deployment_settings, launch_of
from trivet.config.settings import Settings
from trivet.domain.errors import ConfigError, EngineBroken, EngineError, EngineUnavailable, RequestMalformed
from trivet.domain.outcomes import Usage
from trivet.domain.requests import ChatRequest
from trivet.domain.tiers import Deployment
from trivet.engines.connect import open_session, open_transport
from trivet.engines.probe import probe
from trivet.engines.protocol import CallLimits, EngineCall, Health, Reply
from trivet.engines.served import match_model
from trivet.execution.upstream import believable
from trivet.routing.features import prompt_ceiling_tokens
from trivet.routing.output import output_cap
from trivet.routing.policies import Policy
from trivet.routing.request import parse_chat
from trivet.routing.surfaces import describe
from trivet.sdk.model_names import find_deployment

if TYPE_CHECKING:
    from trivet.sdk.chat_answer import ChatAnswer

Messages = Sequence[Mapping[str, Any]]

ANY_TASK = Policy(name="any")
_NAMED_BY_ENGINE = frozenset({"vllm", "llamacpp"})
"""Engines whose server may call the model otherwise than the configuration does."""


class LLMClient:
    """Sends chat messages to the engines of a configuration, through the transports that the server uses.

    No routing, no budget, no fallback: those are ModelRouter, BudgetManager and FallbackChain, or all of it
    at once in `Trivet.open`. Each call opens its own connection; engines must run already.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the whole configuration.

        Raises:
            ConfigError: a deployment cannot be reached as it is written.
        """
        self._settings = settings
        # Of several endpoints the first: nothing here knows how busy they are.
        self._deployments = {each.known_as: each for each in reversed(build_deployments(settings))}
        self._adopted: dict[str, Deployment] = {}

    async def complete(
        self,
        messages: Messages,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        **kwargs: Any,
    ) -> "ChatAnswer":
        """Return one whole answer as OpenAI's ChatCompletion; its `usage` is always filled in.

        Where an engine reports no usage, or an impossible one, it is the ceiling of what can have been used.

        Args:
            messages: OpenAI chat messages.
            model: a LiteLLM-form string of the configuration, a deployment's name or a tier's; by default the
                first deployment of `routing.fixed_tier`.
            temperature: by default the tier's.
            max_tokens: most tokens to generate, as far as the configuration allows; by default the tier's.
                A cap is always sent.
            kwargs: further OpenAI parameters (`tools`, `seed`, `stop`, ...), passed through; not `stream`.

        Raises:
            ModelUnknown: the configuration has no such model; the message lists those it has.
            ConfigError: the deployment is one that Trivet launches itself.
            RequestMalformed: a parameter is not what OpenAI's API defines.
            EngineError: the engine failed or refused; `retryable` says whether another may be tried.
        """
        deployment = self._deployment(model)
        request = _request(messages, temperature, max_tokens, kwargs)
        answer_class = await asyncio.to_thread(_answer_class)
        api_key = api_key_of(self._settings, deployment.name)
        async with open_session() as session:
            deployment = self._adopted.get(deployment.name, deployment)
            if deployment.engine in _NAMED_BY_ENGINE and deployment.name not in self._adopted:
                deployment = self._adopt(
                    deployment, await probe(deployment, session=session, api_key=api_key)
                )
            cap = self._cap(request, deployment)
            transport = open_transport(deployment, session=session, api_key=api_key)
            try:
                reply = await transport.chat(self._call(request, deployment, cap))
            except EngineError:
                # It may have been restarted with another model.
                self._adopted.pop(deployment.name, None)
                raise
            finally:
                await transport.aclose()
        document = json.loads(reply.body or b"null")
        if not isinstance(document, dict):
            raise EngineBroken("The engine answered with no chat completion.")
        document["usage"] = _usage(reply, request, deployment, cap)
        # Built as the openai client builds it: engines add fields and leave some out.
        return answer_class.construct(None, **document)

    def _deployment(self, model: str | None) -> Deployment:
        settings = self._settings
        if model is None:
            names = [tier.name for tier in settings.tiers]
            fixed = settings.routing.fixed_tier
            model = fixed if fixed in names else names[len(names) // 2]
        name = find_deployment(settings, model)
        if launch_of(settings, name) is not None:
            raise ConfigError(
                f"Deployment {name!r} is launched by Trivet, and LLMClient launches nothing.",
                hint="Use `async with Trivet.open(...)`, or give it the `url` of a server that runs.",
                param="model",
            )
        return self._deployments[name]

    def _adopt(self, deployment: Deployment, health: Health) -> Deployment:
        """Return the deployment with the engine's own name and window for the model, and remember it."""
        if not health.ready:
            raise EngineUnavailable(health.detail or f"{deployment.name} is {health.state}.")
        try:
            served = match_model(deployment.model, health.models)
        except ConfigError as error:
            raise EngineUnavailable(error.message, hint=error.hint) from error
        window = deployment.context_tokens
        if served.context_tokens:
            pinned = deployment_settings(self._settings, deployment.name).context_tokens is not None
            window = min(window, served.context_tokens) if pinned else served.context_tokens
        adopted = replace(deployment, model=served.name, context_tokens=window)
        self._adopted[deployment.name] = adopted
        return adopted

    def _cap(self, request: ChatRequest, deployment: Deployment) -> int:
        """Return the output cap: what was asked for up to what the configuration grants to any task."""
        policy = ANY_TASK
        if request.max_tokens is not None:
            granted = [told.max_output_tokens or 0 for told in self._settings.routing.policies.values()]
            policy = replace(ANY_TASK, max_output_tokens=max(granted, default=0) or None)
        cap, _ = output_cap(request.max_tokens, policy, deployment, describe(request, text_limit_chars=1))
        return cap

    def _call(self, request: ChatRequest, deployment: Deployment, cap: int) -> EngineCall:
        body = dict(request.body)
        cap_key = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        body.pop("max_tokens", None)
        body |= {"model": deployment.model, cap_key: cap}
        if body.get("temperature") is None and deployment.tier.temperature is not None:
            body["temperature"] = deployment.tier.temperature
        execution = self._settings.execution
        limits = CallLimits(
            total_s=execution.deadline_s,
            connect_s=execution.connect_timeout_s,
            first_content_s=execution.first_content_timeout_s,
            idle_s=execution.idle_timeout_s,
        )
        return EngineCall(body=body, stream=False, limits=limits, request_id=uuid.uuid4().hex)


def _request(
    messages: Sequence[Any], temperature: float | None, max_tokens: int | None, options: Mapping[str, Any]
) -> ChatRequest:
    if options.get("stream"):
        raise RequestMalformed(
            "LLMClient returns whole answers.",
            hint="Stream with `Trivet.open(...)`: `await trivet.complete(..., stream=True)`.",
            param="stream",
        )
    body = {key: value for key, value in options.items() if key not in ("stream", "stream_options")}
    body["messages"] = [dict(turn) if isinstance(turn, Mapping) else turn for turn in messages]
    if temperature is not None:
        body["temperature"] = temperature
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return parse_chat(body, body_bytes=0, headers={})


def _usage(reply: Reply, request: ChatRequest, deployment: Deployment, cap: int) -> dict[str, Any]:
    """Return OpenAI's usage object: the engine's if it can be true, else a ceiling, as the server charges."""
    ceiling = prompt_ceiling_tokens(describe(request, text_limit_chars=1), deployment.template_tokens)
    output_most = cap * request.n
    used = believable(
        reply.usage,
        output_ceiling=output_most,
        context_tokens=max(deployment.context_tokens, ceiling),
        content_events=reply.content_events,
    )
    if used is None:
        # A token is at least one byte of the body that carries it.
        used = Usage(ceiling, min(output_most, len(reply.body or b"")), "ceiling")
    usage: dict[str, Any] = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.total_tokens,
    }
    if used.cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": used.cached_tokens}
    return usage


def _answer_class() -> "type[ChatAnswer]":
    from trivet.sdk.chat_answer import ChatAnswer

    return ChatAnswer
