"""Where a server is, and whether what answers there is Trivet."""

from typing import Any
from urllib.parse import quote

import httpx

from trivet.domain.errors import KeyInvalid, ServerUnreachable

URL_HINT = "Write it as http://127.0.0.1:8748."


def server_address(url: str) -> str:
    """Return the address that all paths are joined to, also where OpenAI's form of it was given.

    Raises:
        ServerUnreachable: it is no HTTP address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ServerUnreachable(f"{url[:200]!r} is not the address of a server.", hint=URL_HINT)
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def checked_key(api_key: str | None) -> str | None:
    """Return the key without blanks around it; None for none.

    Raises:
        KeyInvalid: it cannot be sent, because it holds blanks or what is not ASCII.
    """
    key = (api_key or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise KeyInvalid(
            "This is not a Trivet API key: it holds characters that no key has.",
            hint="Copy it again: it begins with tvt_.",
        )
    return key or None


def path_part(text: str) -> str:
    """Return text so that it stays one part of a path."""
    return quote(text, safe="")


def document_in(response: httpx.Response, kind: type[dict[str, Any]] | None = None) -> Any:
    """Return the JSON of an answer, its objects as `kind`.

    Raises:
        ServerUnreachable: it is none, or an error that is not Trivet's: somebody else listens there.
    """
    try:
        document = response.json(object_hook=kind)
    except ValueError:
        document = None
    error = document.get("error") if isinstance(document, dict) else None
    failed = response.status_code >= 400
    if document is None or (failed and not (isinstance(error, dict) and "trivet" in error)):
        raise ServerUnreachable(
            f"What answers at {response.request.url.copy_with(query=None)} is not Trivet"
            f" (status {response.status_code}).",
            hint="Check the URL: that of `trivet serve` is printed when it starts.",
        )
    return document
