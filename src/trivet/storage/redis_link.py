"""One Redis server for what replicas share and may lose. Nothing that was promised rests on it.

Whoever uses it has another way when it does not answer, and learns that soon: after a failure nobody is kept
waiting for a second, but for one who tries again.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import structlog

from trivet.domain.clock import Clock
from trivet.domain.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

T = TypeVar("T")
Value = bytes | str | int

CONNECTIONS_MAX = 16
PAUSE_S = 1.0
"""How long nobody asks a server that did not answer."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, run whole or not at all; sent once, then named by its digest."""

    name: str
    text: str


class RedisLink:
    """A pool of connections to one server. For the event loop's thread; `aclose` it.

    An answer is never read by another than who asked: a command that its caller no longer waits for runs to
    its end in a task of the link's own, and a connection that failed amid an answer is closed.
    """

    def __init__(self, url: str, *, timeout_s: float, clock: Clock) -> None:
        """Take the address; connects when first asked.

        Raises:
            ConfigError: the driver is not installed.
        """
        self.failures = 0
        """Commands that were not answered, since the start; those that nobody sent in a pause not counted."""
        self._clock = clock
        self._client = _client(url, timeout_s)
        self._scripts: dict[str, AsyncScript] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._silent_until_ns: int | None = None
        self._host = urlsplit(url).hostname or "a socket"

    @property
    def up(self) -> bool:
        """Tell whether the last command was answered."""
        return self._silent_until_ns is None

    async def run(self, script: Script, keys: Sequence[bytes | str], arguments: Sequence[Value] = ()) -> Any:
        """Run a script; the answer's texts are bytes.

        Raises:
            StoreUnavailable: there was no answer; whether it ran is not known.
        """
        known = self._scripts.get(script.name)
        if known is None:
            known = self._scripts[script.name] = self._client.register_script(script.text)
        return await self._answered(known(keys=list(keys), args=list(arguments)))

    async def execute(self, *command: Value) -> Any:
        """Run one command.

        Raises:
            StoreUnavailable: there was no answer; whether it ran is not known.
        """
        return await self._answered(self._client.execute_command(*command))  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Finish what is under way, then close."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def _answered(self, command: Coroutine[Any, Any, T]) -> T:
        if self._silent_until_ns is not None:
            now_ns = self._clock.monotonic_ns()
            if now_ns < self._silent_until_ns:
                command.close()
                raise _unavailable("it did not answer a moment ago")
            # Whoever comes next in this pause does not wait with the one who tries.
            self._silent_until_ns = now_ns + int(PAUSE_S * 1e9)
        task = asyncio.get_running_loop().create_task(self._tried(command))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    async def _tried(self, command: Coroutine[Any, Any, T]) -> T:
        from redis.exceptions import RedisError

        try:
            answer = await command
        except (RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            if self._silent_until_ns is None:
                log.warning("redis.lost", host=self._host, error=type(error).__name__)
            self._silent_until_ns = self._clock.monotonic_ns() + int(PAUSE_S * 1e9)
            raise _unavailable(type(error).__name__) from error
        if self._silent_until_ns is not None:
            log.info("redis.back", host=self._host)
            self._silent_until_ns = None
        return answer

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone


def server_version(url: str, timeout_s: float) -> str:
    """Ask a server for its version, and whether it runs scripts. Blocks; logs nothing.

    Raises:
        StoreUnavailable: it does not answer, or does not run scripts.
        ConfigError: the driver is not installed.
    """
    try:
        from redis import Redis as BlockingRedis
        from redis.exceptions import RedisError
    except ImportError:
        raise _no_driver() from None
    client = BlockingRedis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    try:
        client.eval("return 1", 0)
        return str(client.info("server")["redis_version"])
    except (RedisError, OSError, TimeoutError) as error:
        raise _unavailable(type(error).__name__) from error
    finally:
        client.close()


def _no_driver() -> ConfigError:
    return ConfigError(
        "redis.url is set, but Redis' driver is not installed.", hint="pip install 'trivet[redis]'"
    )


def _client(url: str, timeout_s: float) -> "Redis":
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise _no_driver() from None
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # Who asks has another way; trying again here would only make that wait.
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def _unavailable(why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"Redis did not answer: {why}.", hint="Each replica works for itself until it does."
    )
