"""Whatever is sent to whatever route: Trivet answers for itself, and never with a fault of its own."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from tests.counts import scaled
from tests.unit.api.conftest import Rooms, settings_at
from trivet.app.assembly import open_trivet
from trivet.config.batch_settings import BatchSettings

NAMES = (
    "model", "messages", "role", "content", "max_tokens", "n", "stream", "tools", "type", "function", "name",
    "parameters", "response_format", "metadata", "prompt", "input", "system", "max_output_tokens",
    "encoding_format", "dimensions", "reserve", "scope", "role", "priority", "tiers", "limits", "daily",
    "expires_at", "kind", "amount", "reason", "time_zone", "requests_per_minute", "prompt_tokens",
    "completion_tokens", "custom_id", "url", "body", "method", "text", "tool_choice", "stop",
)  # fmt: skip
VALUES = (
    "auto", "light", "user", "assistant", "acme", "acme.search", "daily", "approval", "batch", "function",
    "json_schema", "text", "2026-01-01T00:00:00Z", "/v1/chat/completions", "POST", "UTC", "",
)  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(VALUES)
    | st.text(max_size=20)
)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=24,
)
bodies = (
    documents.map(lambda value: json.dumps(value).encode())
    | st.lists(documents, max_size=3).map(lambda lines: b"\n".join(json.dumps(x).encode() for x in lines))
    | st.binary(max_size=64)
)
# What a URL's path can hold, without what would make another path of it.
pieces = st.sampled_from(("acme", "auto", "batch_0", "x" * 300)) | st.text(
    st.characters(exclude_characters="/?#", exclude_categories=["Cs"]), min_size=1, max_size=12
)
parameters = st.dictionaries(
    st.sampled_from(("scope", "since", "until", "by", "limit", "before", "label", "window_hours")),
    st.sampled_from(("acme", "24h", "-1", "0", "nan", "1e9", "tier", "2026-01-01", "\x00", "ü"))
    | st.text(max_size=8),
    max_size=3,
)
REFUSED_BY_ENGINES = (502, 503, 504)


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rooms]:
    """A Trivet that may be filled with nonsense."""
    idle = settings_at(tmp_path_factory.mktemp("fuzz"))
    idle = idle.model_copy(update={"batch": BatchSettings(concurrency=0, open_per_scope=10_000)})
    async with open_trivet(idle) as trivet:
        yield Rooms(trivet)


def operations(house: Rooms) -> list[tuple[str, str]]:
    """Return method and path of every operation."""
    application = house.trivet.application
    found = [
        (method.upper(), path)
        for path, methods in application.openapi()["paths"].items()
        for method in methods
    ]
    for route in application.routes:
        if isinstance(route, Route) and route.path != "/openapi.json":
            found += [(method, route.path) for method in (route.methods or set()) - {"HEAD"}]
    return sorted(set(found))


@settings(max_examples=scaled(100), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
async def test_nothing_is_a_fault_of_ours(house: Rooms, data: st.DataObject) -> None:
    """No operation answers 500, whatever path, query and body hold; errors have their shape."""
    method, path = data.draw(st.sampled_from(operations(house)))
    for name in ("scope", "key_id", "override_id", "decision_id", "batch_id", "name:path"):
        if "{" + name + "}" in path:
            path = path.replace("{" + name + "}", quote(data.draw(pieces), safe=""))
    answer = await house.ask(method, path, raw=data.draw(bodies), params=data.draw(parameters))
    assert answer.status_code < 500 or answer.status_code in REFUSED_BY_ENGINES, answer.text
    if answer.status_code >= 400 and path != "/readyz":
        error: Any = answer.json()
        assert error["error"]["message"] if "error" in error else error["type"] == "error"


CHATTY = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


@settings(max_examples=scaled(60), suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(NAMES) | st.text(max_size=8), documents, st.booleans())
async def test_one_odd_field_in_a_good_request(house: Rooms, name: str, value: Any, nested: bool) -> None:
    """A request that is good but for one field is refused for it, or goes on as far as the engines."""
    body: dict[str, Any] = dict(CHATTY)
    if nested:
        body["messages"] = [{"role": "user", "content": "Hello", name: value}]
    else:
        body[name] = value
    answer = await house.ask("POST", "/v1/chat/completions", json=body)
    assert answer.status_code in (400, 404, 403, *REFUSED_BY_ENGINES), answer.text
