"""A transport that is replaced does not cut the answers that come through it."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from tests.unit.fleet.test_fleet import PROBES, deployment, until
from trivet.engines.protocol import CallLimits, EngineCall
from trivet.fleet import Fleet
from trivet.fleet.endpoint import EndpointPlan

WORDS = ("one ", "two ", "three ")


class Window:
    """A server whose context window can change, and whose streams pause after a word until they may go on."""

    def __init__(self) -> None:
        self.context_tokens = 4096
        self.go_on = asyncio.Event()
        self.url = ""

    async def health(self, _: web.Request) -> web.Response:
        """Answer that all is well."""
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        """List the one model with its present window."""
        return web.json_response({"data": [{"id": "m", "max_model_len": self.context_tokens}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Stream the words."""
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for word in (*WORDS, None):
            delta = {"content": word} if word else {}
            choice = {"index": 0, "delta": delta, "finish_reason": None if word else "stop"}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            await response.write(b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n")
            if word == WORDS[0]:
                await self.go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest_asyncio.fixture
async def window() -> AsyncIterator[Window]:
    """Give a running server."""
    found = Window()
    application = web.Application()
    application.add_routes(
        [
            web.get("/health", found.health),
            web.get("/v1/models", found.models),
            web.post("/v1/chat/completions", found.chat),
        ]
    )
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.mark.parametrize("transport", ["relay", "litellm"])
async def test_an_answer_survives_the_replacement(window: Window, transport: str) -> None:
    """While an answer comes in, the engine's window changes; the answer comes whole all the same."""
    plan = EndpointPlan(
        deployment=deployment("it", engine="vllm", model="m", transport=transport, url=window.url)
    )
    call = EngineCall(
        body={
            "model": "m",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 8,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        stream=True,
        limits=CallLimits(total_s=60.0),
        request_id="r",
    )
    async with Fleet([plan], PROBES) as fleet:
        with fleet.endpoint("it").lease() as lent:
            reply = await lent.chat(call)
            window.context_tokens = 2048
            await until(lambda: fleet.report()[0]["context_tokens"] == 2048)
            await asyncio.sleep(0.05)
            with fleet.endpoint("it").lease() as replacement:
                assert replacement is not lent
            window.go_on.set()
            data = b"".join([chunk.data async for chunk in reply.chunks()]).decode()
            await reply.aclose()
    assert [word for word in WORDS if word in data] == list(WORDS)
    assert reply.finished
