"""Where a server is: what is taken as an address, and what answers there."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from trivet import Trivet
from trivet.domain.errors import KeyInvalid, RequestMalformed, ServerUnreachable
from trivet.sdk.address import checked_key, document_in, path_part, server_address


@pytest.mark.parametrize("url", ["http://h:8748", "http://h:8748/", "http://h:8748/v1", "http://h:8748/v1/"])
def test_openais_form_of_the_address_is_taken(url: str) -> None:
    """What was copied from an OpenAI client's settings works."""
    assert server_address(url) == "http://h:8748"


@pytest.mark.parametrize("url", ["", "h", "h:8748", "ftp://h", "http://", "http://h:abc", "http://[::1"])
def test_what_is_no_address(url: str) -> None:
    """It is told how to write one."""
    with pytest.raises(ServerUnreachable, match=r"http://127\.0\.0\.1:8748"):
        Trivet.connect(url)


@pytest.mark.parametrize("key", ["tvt_\u00fc", "tvt_a b", "tvt_a\nb", "tvt_\x00"])
def test_what_is_no_key(key: str) -> None:
    """A key that no header can carry is refused by name, not by a traceback."""
    with pytest.raises(KeyInvalid, match="characters"):
        Trivet.connect("http://h", api_key=key)


@pytest.mark.parametrize(("key", "sent"), [(None, None), ("", None), (" tvt_a\r\n", "tvt_a")])
def test_blanks_around_a_key_are_no_part_of_it(key: str | None, sent: str | None) -> None:
    """Files end with a line end."""
    assert checked_key(key) == sent


def test_a_scope_stays_one_part_of_the_path() -> None:
    """Nothing in a name leads to another route."""
    assert path_part("a/../b?x=1#y") == "a%2F..%2Fb%3Fx%3D1%23y"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (404, b"<html>"),
        (404, b'{"detail": "Not Found"}'),
        (404, b'{"error": "no"}'),
        (404, b'{"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}'),
        (502, b""),
    ],
)
def test_somebody_else_answers(status: int, body: bytes) -> None:
    """An answer that is not Trivet's says so, and where it came from."""
    response = httpx.Response(
        status, content=body, request=httpx.Request("GET", "http://h:1/api/v1/keys?x=1")
    )
    with pytest.raises(ServerUnreachable, match=f"http://h:1/api/v1/keys is not Trivet.*{status}"):
        document_in(response)


@pytest.mark.parametrize(
    "ask",
    [
        lambda trivet: trivet.complete("half \udcff"),
        lambda trivet: trivet.complete("Hello", scope="\u00fc"),
        lambda trivet: trivet.complete("Hello", temperature=float("nan")),
    ],
    ids=["surrogate", "scope", "nan"],
)
async def test_what_cannot_be_written(ask: Callable[[Trivet], Any]) -> None:
    """What no request can carry is the caller's error, before anything is sent."""
    async with Trivet.connect("http://127.0.0.1:9") as trivet:
        with pytest.raises(RequestMalformed, match="cannot be written"):
            await ask(trivet)
