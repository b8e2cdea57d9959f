"""An engine that speaks OpenAI's wire format and counts by itself what it worked: the truth of a storm.

`python -m tests.doubles.counting_engine --port N --seed S [--delay-ms D]`. Each request's first word names
its tenant; how many tokens prompt and answer have is drawn from the seed and the number in the second word,
the answer never longer than `max_tokens`. A token is counted before it is sent. GET /count tells the sums.
"""

import argparse
import asyncio
import contextlib
import json
import random
from collections import Counter
from typing import Any

from aiohttp import web

from tests.doubles.parent import end_with_parent

MODELS = ("light", "standard", "heavy")
TOKENS_A_CHUNK = 16


class Engine:
    """The one engine, its dice and its books."""

    def __init__(self, seed: int, delay_s: float) -> None:
        self._seed = seed
        self._delay_s = delay_s
        self.tokens: Counter[str] = Counter()
        self.requests = 0

    async def models(self, _: web.Request) -> web.Response:
        """Tell the models."""
        return web.json_response({"object": "list", "data": [{"id": m, "object": "model"} for m in MODELS]})

    async def health(self, _: web.Request) -> web.Response:
        """Say that it lives."""
        return web.json_response({"status": "ok"})

    async def count(self, _: web.Request) -> web.Response:
        """Tell what was worked so far, by tenant."""
        return web.json_response({"tokens": self.tokens, "requests": self.requests})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Read the prompt, which costs at once, and answer as long as the dice say."""
        body = json.loads(await request.read())
        text = body["messages"][-1]["content"]
        tenant, number = text.split(" ", 2)[:2]
        dice = random.Random(f"{self._seed}-{number}-{self.requests}")
        prompt = dice.randint(len(text) // 4, len(text))
        cap = int(body.get("max_tokens") or body["max_completion_tokens"])
        # One in four runs into its cap, as answers that were given too little do.
        completion = cap if dice.random() < 0.25 else dice.randint(1, cap)
        self.requests += 1
        self.tokens[tenant] += prompt
        if self._delay_s:
            await asyncio.sleep(dice.uniform(0, 2 * self._delay_s))
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        reason = "length" if completion == cap else "stop"
        if body.get("stream"):
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            with contextlib.suppress(ConnectionError):  # whoever asked has died; what was worked is counted
                await answer.prepare(request)
                await self._stream(answer, body, tenant, usage, reason, dice)
            return answer
        self.tokens[tenant] += completion
        message = {"role": "assistant", "content": "x " * completion}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return web.json_response(_frame("chat.completion", body, choices=[choice], usage=usage))

    async def _stream(
        self,
        answer: web.StreamResponse,
        body: dict[str, Any],
        tenant: str,
        usage: dict[str, int],
        reason: str,
        dice: random.Random,
    ) -> None:
        left = usage["completion_tokens"]
        while left:
            now = min(left, TOKENS_A_CHUNK)
            left -= now
            self.tokens[tenant] += now
            choice = {"index": 0, "delta": {"content": "x " * now}, "finish_reason": None}
            await answer.write(_event(_frame("chat.completion.chunk", body, choices=[choice])))
            if self._delay_s and dice.random() < 0.3:
                await asyncio.sleep(self._delay_s / 4)
        end = {"index": 0, "delta": {}, "finish_reason": reason}
        await answer.write(_event(_frame("chat.completion.chunk", body, choices=[end])))
        if (body.get("stream_options") or {}).get("include_usage"):
            await answer.write(_event(_frame("chat.completion.chunk", body, choices=[], usage=usage)))
        await answer.write(b"data: [DONE]\n\n")


def _frame(kind: str, body: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": body["model"], **rest}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def build(seed: int, delay_s: float) -> web.Application:
    """Return the engine as an application."""
    engine = Engine(seed, delay_s)
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    told = parser.parse_args()
    end_with_parent()
    application = build(told.seed, told.delay_ms / 1000)
    web.run_app(application, host="127.0.0.1", port=told.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
