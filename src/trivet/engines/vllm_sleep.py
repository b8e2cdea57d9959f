"""Put a vLLM server to sleep and wake it: its model leaves the GPU's memory, its process stays.

The routes exist where the server runs with VLLM_SERVER_DEV_MODE=1; memory is given back only where it was
also started with `--enable-sleep-mode`, which a CPU build refuses: there the routes just hold the scheduler.
Level 1 keeps the weights in the host's memory; level 2 drops them, so waking reads them from disk again, in
the order that vLLM's documentation gives (docs/features/sleep_mode.md: weights, `reload_weights`, KV cache).
"""

import asyncio
import json
from typing import Any

import aiohttp

from trivet.domain.errors import EngineBroken, EngineError, EngineIncapable, EngineTimeout
from trivet.engines.addresses import server_url
from trivet.engines.answers import read_body
from trivet.engines.faults import fault_from_exception, fault_from_status, message_in

ASK_TIMEOUT_S = 5.0
SLEEP_TIMEOUT_S = 120.0
WAKE_TIMEOUT_S = 300.0
ANSWER_LIMIT_BYTES = 64 * 1024

_HINT = "Start the server with --enable-sleep-mode and the variable VLLM_SERVER_DEV_MODE=1."


class VllmSleep:
    """Asks and tells one vLLM server. Every call raises EngineErrors."""

    def __init__(self, url: str, *, session: aiohttp.ClientSession, api_key: str | None) -> None:
        """Take the server's URL, with or without `/v1`; nothing is sent yet."""
        self._url = server_url(url)
        self._session = session
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def is_sleeping(self) -> bool:
        """Tell whether it sleeps.

        Raises:
            EngineIncapable: the server has no sleep mode.
        """
        answer = json.loads(await self._ask("GET", "/is_sleeping", ASK_TIMEOUT_S) or b"null")
        return isinstance(answer, dict) and answer.get("is_sleeping") is True

    async def sleep(self, level: int) -> None:
        """Let it sleep at level 1 or 2, once its requests have ended; return when its memory is free.

        Raises:
            EngineIncapable: the server has no sleep mode.
        """
        await self._ask("POST", f"/sleep?level={level}", SLEEP_TIMEOUT_S)

    async def wake(self, level: int) -> None:
        """Wake it from the level it sleeps at; return when it can answer."""
        if level == 1:
            await self._ask("POST", "/wake_up", WAKE_TIMEOUT_S)
            return
        await self._ask("POST", "/wake_up?tags=weights", WAKE_TIMEOUT_S)
        await self._ask("POST", "/collective_rpc", WAKE_TIMEOUT_S, {"method": "reload_weights"})
        await self._ask("POST", "/wake_up?tags=kv_cache", WAKE_TIMEOUT_S)

    async def _ask(
        self, method: str, path: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> bytes:
        route = path.partition("?")[0]
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method, self._url + path, json=body, headers=self._headers, allow_redirects=False
                ) as response,
            ):
                answer = await read_body(response, ANSWER_LIMIT_BYTES) or b""
        except EngineError:
            raise
        except TimeoutError as error:
            raise EngineTimeout(f"vLLM did not answer {route} within {timeout_s:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise fault_from_exception(error, answered=False) from error
        if response.status == 404:
            raise EngineIncapable(f"vLLM has no {route}.", status=404, hint=_HINT)
        if response.status != 200:
            raise fault_from_status(response.status, message_in(answer))
        if method == "GET" and not answer.startswith(b"{"):
            raise EngineBroken(f"vLLM's answer to {route} is no JSON object.", status=200)
        return answer
