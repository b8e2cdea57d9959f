"""An engine of a known pace that speaks OpenAI's wire format: so many at once, the others in its own queue.

`python -m tests.doubles.paced_engine --port N --slots S --first-ms F --total-ms T [--queue-max Q]`. Each
request takes a slot in order of arrival, shows its first token after F and its last after T: the capacity is
S / T. With `--spread P` each takes T up to P more or less, evenly, or all would end at once for ever. GET
/count tells how many it served and the most that it ran and that waited in it.
"""

import argparse
import asyncio
import contextlib
import json
import random
from typing import Any

from aiohttp import web

from tests.doubles.parent import end_with_parent

WORDS = 4


class PacedEngine:
    """The engine and its counts."""

    def __init__(self, slots: int, first_s: float, total_s: float, *, queue_max: int, spread: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._first_s = first_s
        self._total_s = total_s
        self._queue_max = queue_max
        self._spread = spread
        self._dice = random.Random(1)
        self._waiting = 0
        self._running = 0
        self.counts = {"served": 0, "running_most": 0, "waiting_most": 0, "refused": 0}

    async def models(self, _: web.Request) -> web.Response:
        """Tell the models."""
        names = ("paced", "light", "standard", "heavy")
        return web.json_response({"object": "list", "data": [{"id": n, "object": "model"} for n in names]})

    async def health(self, _: web.Request) -> web.Response:
        """Say that it lives."""
        return web.json_response({"status": "ok"})

    async def count(self, _: web.Request) -> web.Response:
        """Tell the counts."""
        return web.json_response(self.counts)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Wait for a slot and answer at the pace."""
        body = json.loads(await request.read())
        if self._waiting >= self._queue_max:
            self.counts["refused"] += 1
            return web.json_response({"error": {"message": "queue full"}}, status=503)
        self._waiting += 1
        self.counts["waiting_most"] = max(self.counts["waiting_most"], self._waiting)
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            self._running += 1
            self.counts["running_most"] = max(self.counts["running_most"], self._running)
            total_s = self._total_s * self._dice.uniform(1 - self._spread, 1 + self._spread)
            streamed = bool(body.get("stream"))
            answer = await (self._stream(request, body, total_s) if streamed else self._plain(body, total_s))
            self.counts["served"] += 1
            return answer
        finally:
            self._running -= 1
            self._slots.release()

    async def _plain(self, body: dict[str, Any], total_s: float) -> web.StreamResponse:
        await asyncio.sleep(total_s)
        message = {"role": "assistant", "content": "x " * WORDS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(_frame("chat.completion", body, choices=[choice], usage=_USAGE))

    async def _stream(self, request: web.Request, body: dict[str, Any], total_s: float) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):
            await asyncio.sleep(self._first_s)
            await answer.prepare(request)
            for word in range(WORDS):
                if word:
                    await asyncio.sleep((total_s - self._first_s) / (WORDS - 1))
                choice = {"index": 0, "delta": {"content": "x "}, "finish_reason": None}
                await answer.write(_event(_frame("chat.completion.chunk", body, choices=[choice])))
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            await answer.write(_event(_frame("chat.completion.chunk", body, choices=[end])))
            await answer.write(_event(_frame("chat.completion.chunk", body, choices=[], usage=_USAGE)))
            await answer.write(b"data: [DONE]\n\n")
        return answer


_USAGE = {"prompt_tokens": 8, "completion_tokens": WORDS, "total_tokens": 8 + WORDS}


def _frame(kind: str, body: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": body["model"], **rest}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def build(engine: PacedEngine) -> web.Application:
    """Return the engine as an application."""
    application = web.Application()
    application.router.add_get("/health", engine.health)
    application.router.add_get("/v1/models", engine.models)
    application.router.add_get("/count", engine.count)
    application.router.add_post("/v1/chat/completions", engine.chat)
    return application


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--first-ms", type=float, default=100.0)
    parser.add_argument("--total-ms", type=float, default=400.0)
    parser.add_argument("--queue-max", type=int, default=1_000_000)
    parser.add_argument("--spread", type=float, default=0.0)
    told = parser.parse_args()
    end_with_parent()
    pace = (told.slots, told.first_ms / 1000, told.total_ms / 1000)
    web.run_app(
        build(PacedEngine(*pace, queue_max=told.queue_max, spread=told.spread)),
        host="127.0.0.1",
        port=told.port,
        print=None,
        access_log=None,
        # A request that nobody waits for gives its slot back, as vLLM's and llama.cpp's streams do.
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )


if __name__ == "__main__":
    main()
