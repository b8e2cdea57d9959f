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
from trivet.engines.translated import TRANSLATED, translate

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
        # llama.cpp has both, as translations of its own that leave out the form of an answer and fields of
        # its own, and call an answer complete that the cap cut short: ours says all of it.
        self._unspoken: set[Surface] = set(TRANSLATED) if llamacpp else set()
        """What the engine does not speak, or turned out not to; it is translated."""

    async def say(self, call: EngineCall) -> Reply:
        """Dispatch; see `Transport.chat`."""
        if call.surface is Surface.TOKENIZE and self._llamacpp:
            return await self._llamacpp_tokens(call)
        if call.surface in TRANSLATED:
            return await self._spoken(call)
        return await self._offered(self._ask(call, DIALECTS[call.surface]), call.surface)

    async def _spoken(self, call: EngineCall) -> Reply:
        if call.surface not in self._unspoken:
            try:
                return await self._ask(call, DIALECTS[call.surface])
            except EngineError as error:
                if error.status not in NOT_OFFERED:
                    raise
        reply = await translate(call, self._chat)
        # Not before: a model that is missing has no other answer than a route that is.
        self._unspoken.add(call.surface)
        return reply

    async def _chat(self, call: EngineCall) -> Reply:
        return await self._ask(call, DIALECTS[Surface.CHAT])

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
