"""Reading a batch: the first fault refuses the file, and names its line."""

import json
from typing import Any

import pytest

from tests.unit.api.conftest import Rooms
from trivet.api.batch_lines import read_batch
from trivet.domain.errors import RequestError

BODY = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
LINE: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


def text(**fields: Any) -> bytes:
    """Return a line with other fields; those that are None are left out."""
    return json.dumps({k: v for k, v in (LINE | fields).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (text(custom_id=None), "custom_id must be"),
        (text(custom_id=7), "custom_id must be"),
        (text(custom_id="a\nb"), "custom_id must be"),
        (text(custom_id="x" * 201), "custom_id must be"),
        (text(custom_id="first"), "stands on line 1"),
        (text(method="GET"), "method must be POST"),
        (text(url="/v1/models"), "url must be"),
        (text(url="http://evil.example/v1/chat/completions"), "url must be"),
        (text(url=[]), "url must be"),
        (text(body=[]), "must be a JSON object"),
        (text(body={}), "messages"),
        (text(body=BODY | {"stream": True}), "leave stream out"),
        (text(body=BODY | {"api_base": "http://evil.example"}), "api_base"),
        (text(api_base="http://evil.example"), "holds 'api_base'"),
        (text(body=BODY | {"user": "x" * 3000}), "exceeds 2000 bytes"),
        (text().replace(b'"a"', b'"a", "custom_id": "b"'), "repeats a key"),
    ],
)
async def test_the_first_fault_is_told_with_its_line(line: bytes, complaint: str) -> None:
    """Whatever is wrong on a line, the refusal names it by its place in the file; blank lines count there."""
    file = text(custom_id="first") + b"\n\n" + line + b"\n" + text(custom_id="last")
    with pytest.raises(RequestError, match=complaint) as refused:
        await read_batch(file, max_lines=10, line_limit_bytes=2000)
    assert str(refused.value).startswith("Line 3: ")
    assert refused.value.details["line"] == 3


async def test_a_whole_file_is_read() -> None:
    """Line ends of either kind, no last one, blank lines: the requests keep their numbers."""
    file = text(custom_id="a") + b"\r\n\r\n" + text(custom_id="b", method=None)
    found = await read_batch(file, max_lines=2, line_limit_bytes=2000)
    assert [(line.number, line.custom_id) for line in found.lines] == [(1, "a"), (3, "b")]
    assert json.loads(found.lines[0].body) == BODY
    assert set(found.first_of_model) == {"auto"}


@pytest.mark.parametrize(
    ("file", "complaint"), [(b"", "empty"), (b"\n \n", "empty"), (text() * 1, "more than 0")]
)
async def test_empty_and_long_files_are_refused(file: bytes, complaint: str) -> None:
    """A batch holds at least one request, and at most so many."""
    with pytest.raises(RequestError, match=complaint):
        await read_batch(file, max_lines=0, line_limit_bytes=2000)


async def test_the_door_refuses_what_the_key_may_not_use(rooms: Rooms) -> None:
    """A model that there is not, or not for this key, refuses the file; so does an odd option."""
    unknown = text(body=BODY | {"model": "none"})
    forbidden = text(body=BODY | {"model": "heavy"})
    light = rooms.key("acme", tiers=("light",))
    answers = [
        await rooms.ask("POST", "/api/v1/batch", raw=unknown),
        await rooms.ask("POST", "/api/v1/batch", light, raw=forbidden),
        await rooms.ask("POST", "/api/v1/batch", raw=text(), params={"windowhours": "3"}),
        await rooms.ask("POST", "/api/v1/batch", raw=text(), params={"window_hours": "inf"}),
        await rooms.ask("POST", "/api/v1/batch", raw=text(), params={"window_hours": "nan"}),
        await rooms.ask("POST", "/api/v1/batch", raw=text(), params={"label": "a\nb"}),
    ]
    assert [answer.status_code for answer in answers] == [404, 403, 400, 400, 400, 400]
    assert answers[0].json()["error"]["trivet"]["line"] == 1


async def test_a_scope_has_so_many_open_batches(engineless: Rooms) -> None:
    """Where none is worked off the next one is refused, with a wait; ended ones do not count."""
    key = engineless.key("crowded")
    batches = [await engineless.ask("POST", "/api/v1/batch", key, raw=text()) for _ in range(20)]
    assert {batch.status_code for batch in batches} == {201}
    refused = await engineless.ask("POST", "/api/v1/batch", key, raw=text())
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    cancelled = await engineless.ask("DELETE", f"/api/v1/batch/{batches[0].json()['id']}", key)
    assert cancelled.json()["status"] == "cancelled"
    assert (await engineless.ask("POST", "/api/v1/batch", key, raw=text())).status_code == 201
