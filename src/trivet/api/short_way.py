"""A short way between a request and its client, where the server knows one.

Through ASGI every part of an answer is a message, whose head a server looks at field by field, and whoever
wants to know that a client has gone needs a task that waits for it.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from trivet.api.asgi import STREAM_FIELDS

SHORT_WAY = "trivet.short_way"
"""Under this name the server puts its ShortWay into the request's scope."""


class ShortWay(AbstractContextManager[None], Protocol):
    """What the server puts there. Its calls and those through ASGI may follow one another.

    While it is entered, the request's task is cancelled when the client disconnects, and the way's end raises
    ClientGone instead of CancelledError. Nothing happens after the answer has ended.
    """

    @property
    def begun(self) -> bool:
        """Tell whether the request's answer has begun, this way or the ordinary one."""
        ...

    @property
    def ended(self) -> bool:
        """Tell whether all of the answer has been sent, this way or the ordinary one."""
        ...

    def taken_body(self, limit_bytes: int) -> bytes | None:
        """Take the request's body if all of it is there; None: it is to be received, or larger than this."""
        ...

    def whole(self, head: bytes, body: bytes) -> bool:
        """Send a 200 answer that is there as a whole; False: nothing was sent.

        Args:
            head: fields, each with its line end; `content-length` among them.
            body: the whole of it.
        """
        ...

    def begin(self, head: bytes) -> bool:
        """Begin a 200 answer whose body comes in parts; False: nothing was sent.

        Args:
            head: fields, each with its line end; none of them frames the body.
        """
        ...

    def part(self, data: bytes, *, more: bool = True) -> bool:
        """Send a part of the body; False: nothing was sent, since the client reads slowly, or has gone."""
        ...

    def pass_on(self, data: bytes) -> bool:
        """Send a part of the body in a write of its own; False: nothing was sent, leave it to `part`."""
        ...


def head_of(fields: str, *, length_bytes: int | None) -> bytes:
    """Return the head of an answer as it goes over the wire, without the blank line.

    Args:
        fields: what the answer tells, each with its line end, fit for a head: `clean_text`.
        length_bytes: of a JSON document; None: the answer is a stream of events.
    """
    kind = (
        _STREAM
        if length_bytes is None
        else f"content-type: application/json\r\ncontent-length: {length_bytes}\r\n"
    )
    return f"{kind}cache-control: no-store\r\nvary: Authorization\r\n{fields}".encode("ascii")


_STREAM = "".join(f"{name}: {value}\r\n" for name, value in STREAM_FIELDS.items())
