"""The HTTP server around an open Trivet."""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from uvicorn.config import Config

from trivet.app.assembly import OpenTrivet, open_trivet
from trivet.app.bounded_http import bounded_http
from trivet.config.settings import ServerSettings, Settings
from trivet.domain.errors import ConfigError
from trivet.execution.drain import Drain
from trivet.storage import StoreLock

KEPT_S = 75
"""How long a connection is kept for another request. Clients and load balancers keep it for less (httpx 5 s,
aiohttp 15 s, most balancers 60 s): who sends a request just as the server closes cannot know whether it was
heard, and reports a failure."""
LAST_REQUESTS_S = 5
"""What a request may take at the very end that asks no engine, or whose answer is on its way."""

Started = Callable[[OpenTrivet, str, str | None], None]
"""Told of the open Trivet, its URL, and the first admin key when there was none before."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process before the holds are settled."""

    def __init__(
        self, config: Config, drain: Drain, *, drain_timeout_s: float, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_timeout_s = drain_timeout_s
        self._ready = ready
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield

    async def end_requests(self) -> None:
        """Cancel what the drain has left over, and wait until each has told the settler its end."""
        tasks = tuple(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Drain on the first signal, stop at once on the second; both settle."""
        if self._stopping is None:
            self._drain.begin()
            self._stopping = asyncio.get_running_loop().create_task(self._run_out())
        else:
            self._stopping.cancel()
            self.force_exit = self.should_exit = True

    async def _run_out(self) -> None:
        """Let what was taken end in its time; until then say to all others that nothing is taken."""
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await self._drain.empty()
        except TimeoutError:
            await self.end_requests()
        self.should_exit = True


async def serve(
    settings: Settings,
    *,
    started: Started,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set, or without one until SIGINT or SIGTERM.

    `started` is told the URL once the socket listens. On stopping no request is taken, running answers get
    `server.drain_timeout_s` to end, then every hold is settled and the launched engines are stopped.

    Raises:
        ConfigError: the address cannot be bound.
        StoreLocked: another process owns the store.
    """
    with StoreLock.acquire(settings.store.path.expanduser()):
        pass  # whoever owns the store is worth more to know than whose port it is
    listener = bind(settings.server)
    with contextlib.closing(listener):
        async with open_trivet(settings) as trivet:
            url = url_of(settings.server.host, listener.getsockname()[1])
            config = Config(
                trivet.application,
                interface="asgi3",
                http=bounded_http(
                    head_timeout_s=settings.server.head_timeout_s,
                    body_timeout_s=settings.server.body_timeout_s,
                ),
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,  # nobody asks for the client's address
                lifespan="off",
                timeout_keep_alive=KEPT_S,
                timeout_graceful_shutdown=LAST_REQUESTS_S,
                server_header=False,
                ws="none",
            )
            first_key = trivet.make_first_key()

            def ready() -> None:
                if trivet.lock is not None:
                    trivet.lock.announce(url, trivet.owner_token)
                started(trivet, url, first_key)

            server = _Server(
                config, trivet.drain, drain_timeout_s=settings.server.drain_timeout_s, ready=ready
            )
            async with _stopped_by(stop, server):
                try:
                    await server.serve(sockets=[listener])
                finally:
                    await server.end_requests()


@contextlib.asynccontextmanager
async def _stopped_by(stop: asyncio.Event | None, server: _Server) -> AsyncIterator[None]:
    """Let the event, or without one the signals, stop the server."""
    loop = asyncio.get_running_loop()
    if stop is None:

        def heed(_number: int, _frame: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to stop
                loop.call_soon_threadsafe(server.stop)

        # Not the loop's own handlers: those end with it, and a late signal would then end a process
        # that has just put everything in order with the wrong status.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, heed)
        yield
        return

    async def wait() -> None:
        await stop.wait()
        server.stop()

    waiting = loop.create_task(wait())
    try:
        yield
    finally:
        waiting.cancel()


def bind(server: ServerSettings) -> socket.socket:
    """Return a listening socket at the configured address.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    # The protocol is named since asyncio sets TCP_NODELAY only where it is, and what is accepted inherits it:
    # without, an answer's body waits up to 40 ms for the client's acknowledgement of its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {server.host}:{server.port}: {error.strerror}.",
            hint="Stop the other program, or choose another port with --port."
            if error.errno == errno.EADDRINUSE
            else "Choose an address of this machine with --host, and a port that you may use with --port.",
            param="server.port",
        ) from error
    listener.setblocking(False)
    return listener


def url_of(host: str, port: int) -> str:
    """Return the URL at which a client on this machine reaches the server."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
