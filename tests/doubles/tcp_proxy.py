"""A wire that can be cut: a TCP proxy which passes, says nothing, refuses, or swallows the next answer."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "hang", "refuse", "swallow"]


class TcpProxy:
    """Forwards a loopback port. `swallow`: the next answer is lost together with the connection."""

    def __init__(self, port: int) -> None:
        """Take the port to forward to."""
        self._to = port
        self._mode: Mode = "pass"
        self._wires: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallowed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, mode: Mode) -> None:
        """Change what happens to what passes; `refuse` also breaks what is open."""
        self._mode = mode
        self.swallowed.clear()
        if mode == "refuse":
            self.cut()

    def cut(self) -> None:
        """Break every open connection."""
        wires, self._wires = self._wires, []
        for wire in wires:
            _close(wire)

    def close(self) -> None:
        """End."""
        self._mode = "refuse"
        _close(self._listener)
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._mode == "refuse":
                _close(client)
                continue
            server = socket.create_connection(("127.0.0.1", self._to))
            self._wires += [client, server]
            threading.Thread(target=self._forward, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, True), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self._mode == "hang":
                    if sink.fileno() < 0:
                        return
                    threading.Event().wait(0.01)
                if self._mode == "swallow" and is_answer:
                    self._mode = "pass"
                    self.swallowed.set()
                    break
                sink.sendall(data)
        _close(source)
        _close(sink)


def _close(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        wire.close()
