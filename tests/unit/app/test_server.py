"""The listening socket and the loop under the server."""

import asyncio
import socket

import httpx
import openai

from trivet.app.server import KEPT_S, bind
from trivet.config.settings import ServerSettings
from trivet.domain.serving import new_event_loop


async def _sends_at_once() -> bool:
    """Accept a connection and tell whether it sends small pieces without waiting for acknowledgements."""
    accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport_socket = writer.get_extra_info("socket")
        accepted.set_result(bool(transport_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()

    listener = bind(ServerSettings(port=0))
    server = await asyncio.start_server(answer, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.close()
        return await accepted


def test_an_answers_body_does_not_wait_for_its_head() -> None:
    """TCP_NODELAY is set on what is accepted, on asyncio's loop and on the one that `serve` uses."""
    assert asyncio.run(_sends_at_once())
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(_sends_at_once())


def test_clients_close_kept_connections_first() -> None:
    """Where both close at the same moment a request just sent is lost; balancers keep one for 60 s."""
    kept_s = [httpx.Limits().keepalive_expiry, openai.DEFAULT_CONNECTION_LIMITS.keepalive_expiry, 60.0]
    assert max(filter(None, kept_s)) < KEPT_S
