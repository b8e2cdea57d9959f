"""A short way for a 200 answer that is there as a whole, where the server knows one.

Through ASGI it takes two messages, and a server looks at every field of every head anew.
"""

from collections.abc import Mapping
from typing import Protocol

from trivet.api.asgi import HEADER_CHARS_MAX, clean_header

WHOLE_ANSWER = "trivet.whole_answer"
"""Under this name the server puts its WholeAnswer into the request's scope."""


class WholeAnswer(Protocol):
    """What the server puts there."""

    @property
    def begun(self) -> bool:
        """Tell whether the request's answer has begun, this way or the ordinary one."""
        ...

    def __call__(self, head: bytes, body: bytes) -> bool:
        """Send the answer; False: nothing was sent, since the connection cannot take it now.

        Args:
            head: fields, each with its line end; `content-length` among them.
            body: the whole of it.
        """
        ...


def head_of(headers: Mapping[str, str], *, content_type: str, length_bytes: int) -> bytes:
    """Return the fields of an answer's head as they go over the wire, without the blank line."""
    values = "".join(headers.values())
    clean = values.isascii() and values.isprintable() and len(values) <= HEADER_CHARS_MAX
    told = [
        f"{name}: {value if clean else clean_header(value).decode()}\r\n" for name, value in headers.items()
    ]
    return (
        f"content-type: {content_type}\r\ncontent-length: {length_bytes}\r\n"
        f"cache-control: no-store\r\nvary: Authorization\r\n{''.join(told)}"
    ).encode("ascii")
