"""Saying a request of any surface to one engine, and finding out what the engine does not speak."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from trivet.domain.errors import EngineError, EngineIncapable
from trivet.domain.surfaces import Surface
from trivet.engines.answers import PlainReply
from trivet.engines.dialects import DIALECTS, TEMPLATE, Dialect
from trivet.engines.protocol import EngineCall, Reply
from trivet.engines.tokens_wire import as_vllm, llamacpp_prompt, llamacpp_template, template_text

NOT_OFFERED = frozenset({404, 405, 501})
"""What servers answer to a path that they do not have."""


class Ask(Protocol):
    """Sends a call to the engine in one dialect."""

    async def __call__(self, call: EngineCall, dialect: Dialect) -> Reply:
        """Dispatch; see `Transport.chat`."""
        ...


class Speaker:
    """Speaks every surface but chat completions to one server that speaks OpenAI's wire format."""

    def __init__(self, ask: Ask, *, llamacpp: bool) -> None:
        """Take the way to the server, and whether it is llama.cpp's, whose tokenizer has its own way."""
        self._ask = ask
        self._llamacpp = llamacpp

    async def say(self, call: EngineCall) -> Reply:
        """Dispatch; see `Transport.chat`."""
        if call.surface is Surface.TOKENIZE and self._llamacpp:
            return await self._llamacpp_tokens(call)
        return await self._offered(self._ask(call, DIALECTS[call.surface]), call.surface)

    async def _offered(self, asking: Awaitable[Reply], surface: Surface) -> Reply:
        try:
            return await asking
        except EngineError as error:
            if error.status in NOT_OFFERED:
                # Says nothing about what it is asked otherwise: chat may work well.
                raise EngineIncapable(
                    f"The engine does not offer {surface.replace('_', ' ')} ({error.status}).",
                    hint="Check the deployment's `model` and `capabilities`.",
                ) from error
            raise

    async def _llamacpp_tokens(self, call: EngineCall) -> Reply:
        text = call.body.get("prompt")
        if "messages" in call.body:
            templated = await self._ask(replace(call, body=llamacpp_template(call.body)), TEMPLATE)
            text = template_text(templated.body or b"")
        told = await self._ask(
            replace(call, body=llamacpp_prompt(call.body, str(text))), DIALECTS[Surface.TOKENIZE]
        )
        return as_vllm(told) if isinstance(told, PlainReply) else told
