"""JSON as it goes to engines: without spaces, by one encoder."""

import json
from collections.abc import Callable, Iterable
from json import encoder
from typing import Any

_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _made_once() -> Callable[[Any, int], Iterable[str]]:
    """Return what encodes a document. The library makes its encoder anew each time, which costs as much."""
    make: Any = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return lambda document, _: _ENCODER.iterencode(document)
    encode: Callable[[Any, int], Iterable[str]] = make(
        *(None, _ENCODER.default, encoder.encode_basestring_ascii),
        *(None, _ENCODER.key_separator, _ENCODER.item_separator),
        *(False, False, True),  # keys unsorted, none skipped, NaN allowed
    )
    return encode


_encode = _made_once()


def encoded(document: dict[str, Any]) -> bytes:
    """Return a document that holds no circle as ASCII."""
    return "".join(_encode(document, 0)).encode("ascii")
