"""What the client sees, what the ledger charges and what the clock counts for each fault of an engine.

Every case is asked four times over each transport: plain and streamed, of the failing engine alone and with
one behind it that is well. All cases run at once, each for a scope of its own; the tests read the results.
"""

import asyncio
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.e2e.conftest import House, serving, settings_for

MESSAGES = [{"role": "user", "content": "Hello"}]
CAP = 16
ANSWER = 7 + CAP
"""What the fault server says that a whole answer took."""
SEEN = len("alpha beta ")
"""Bytes of content that come before a stream breaks."""
TRANSPORTS = ("relay", "litellm")
Owes = Literal["nothing", "prompt", "ceiling"]


@dataclass(frozen=True, slots=True)
class Row:
    """One fault before any content has been sent to the client."""

    fault: str
    status: int
    code: str
    owes: Owes = "nothing"
    """What the failed attempt is charged."""
    stream_owes: Owes | None = None
    """Where that differs for a stream."""


UNREACHABLE = {
    "refused": "http://127.0.0.1:9",
    "no-such-host": "http://engine.invalid:8000",
    "no-tls": "https://{address}",
}
BEFORE = [
    Row("refused", 502, "upstream_unavailable"),
    Row("no-such-host", 502, "upstream_unavailable"),
    Row("no-tls", 502, "upstream_unavailable"),
    Row("hang", 504, "upstream_timeout", "ceiling", "prompt"),
    Row("500", 502, "upstream_error"),
    Row("503", 503, "upstream_busy"),
    Row("429", 503, "upstream_busy"),
    Row("503-loading", 503, "upstream_loading"),
    Row("html502", 502, "upstream_error"),
    Row("error-in-200", 503, "upstream_busy"),
    Row("role-then-error", 502, "upstream_error"),
    Row("garbage", 502, "upstream_error"),
    Row("no-choices", 502, "upstream_error"),
    Row("close-no-reply", 502, "upstream_error"),
    Row("redirect", 502, "upstream_error"),
    Row("404", 502, "upstream_error"),
    Row("401", 502, "upstream_error"),
]
OVERFLOW = [Row("400-context", 400, "context_length_exceeded")]
"""The engine names its window of 256 tokens, so the 4096 of the other are worth a try."""
REJECTED = Row("400", 400, "upstream_rejected")
"""The request's own fault: nobody else is asked."""
PLAIN_ONLY = [Row("cut", 502, "upstream_error"), Row("stall", 504, "upstream_timeout", "ceiling")]
"""Of a stream these come after the first content."""
STREAM_ONLY = [Row("oversized", 502, "upstream_error")]
AFTER = {
    "cut": "upstream_incomplete",
    "early-end": "upstream_incomplete",
    "stall": "upstream_timeout",
    "error-amid": "upstream_error",
}
WELL = ("drip", "no-usage", "wrong-usage-negative", "wrong-usage-huge")
SILENT = ("hang", "stall")
LITELLM_SAYS = {("no-choices", True): "upstream_incomplete"}
"""LiteLLM passes over chunks that are none."""

Case = tuple[str, str, bool, bool]
"""Transport, fault, whether streamed, whether alone."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one client saw, and what its scope was charged."""

    status: int
    headers: httpx.Headers
    body: str
    used: int
    held: int

    @property
    def error(self) -> dict[str, Any]:
        """Return the error of a refusal, or of a stream's last event."""
        last = self.body.strip().split("\n\n")[-1].removeprefix("data: ")
        error: dict[str, Any] = json.loads(last)["error"]
        return error


@dataclass(frozen=True, slots=True)
class Matrix:
    """All results, and what the machine's books say after them."""

    seen: dict[Case, Seen]
    prompt: int
    """The ceiling of the prompt's tokens."""
    verified: bool
    savings: list[dict[str, Any]]

    def owed(self, owes: Owes) -> int:
        """Return the tokens of a charge."""
        return {"nothing": 0, "prompt": self.prompt, "ceiling": self.prompt + CAP}[owes]


def _cases() -> list[Case]:
    faults = [(row.fault, stream) for row in (*BEFORE, *OVERFLOW, REJECTED) for stream in (False, True)]
    faults += [(row.fault, False) for row in PLAIN_ONLY]
    faults += [(row.fault, True) for row in STREAM_ONLY]
    faults += [(fault, True) for fault in AFTER]
    faults += [(fault, stream) for fault in WELL for stream in (False, True)]
    return [(way, *each, alone) for each in faults for way in TRANSPORTS for alone in (True, False)]


def _deployments(fault_server: str) -> dict[str, list[dict[str, Any]]]:
    place = {"context_tokens": 4096, "local": True, "devices": ["host"]}
    faults = dict.fromkeys(fault for _, fault, _, _ in _cases())
    address = fault_server.removeprefix("http://")
    light = [
        {
            "name": f"{way}-{fault}",
            "model": f"openai/{fault}",
            "url": UNREACHABLE.get(fault, fault_server).format(address=address),
            "transport": way,
            **place,
        }
        for fault in faults
        for way in TRANSPORTS
    ]
    well = [
        {"name": f"{way}-well", "model": "openai/ok", "url": fault_server, "transport": way, **place}
        for way in TRANSPORTS
    ]
    gone = {"name": "gone", "model": "openai/gone", "url": "http://127.0.0.1:9", **place}
    return {"light": light, "standard": well, "heavy": [gone]}


async def _ask(house: House, http: httpx.AsyncClient, number: int, case: Case) -> Seen:
    way, fault, stream, alone = case
    scope = f"matrix.c{number}"
    models = (f"{way}-{fault}",) if alone else (f"{way}-{fault}", f"{way}-well")
    headers = {"authorization": f"Bearer {house.key(scope, models=models)}"}
    body = {"model": "light", "messages": MESSAGES, "max_tokens": CAP, "stream": stream}
    answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    rows = (await http.get(f"/api/v1/budgets/{scope}/status", headers=headers)).json()["rows"]
    place = (scope, "daily", "tokens")
    own = next(row for row in rows if (row["scope"], row["window"], row["meter"]) == place)
    return Seen(answer.status_code, answer.headers, answer.text, own["used"], own["held"])


LIMITS = {
    # As long as a slow machine may need, and too short for the 7 s after which a 429 wants to be asked again.
    False: {"deadline_s": 6.5, "first_content_timeout_s": 6.5, "idle_timeout_s": 6.5},
    True: {"deadline_s": 5.0, "first_content_timeout_s": 2.5, "idle_timeout_s": 2.5},
}
"""The time that a request has, by whether its engine falls silent."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one Trivet's clients saw, and what its books say after them."""

    seen: dict[Case, Seen]
    prompt: int
    verified: bool
    savings: dict[str, Any]


async def _play(directory: Path, fault_server: str, cases: list[tuple[int, Case]], *, silent: bool) -> Part:
    """Ask the cases of a Trivet of their own: all at once where time passes, else several."""
    settings = settings_for(
        directory, _deployments(fault_server), execution=LIMITS[silent] | {"connect_timeout_s": 1.5}
    )
    seen = dict[Case, Seen]()
    left = iter(cases)
    body = {"model": "litellm-well", "messages": MESSAGES, "max_tokens": CAP}
    async with serving(settings) as house, house.http() as http:
        # LiteLLM's first call takes seconds, which are no engine's silence.
        estimated = (await http.post("/api/v1/route", json=body)).json()["estimated"]
        await http.post("/v1/chat/completions", json=body)

        async def several() -> None:
            for number, case in left:
                seen[case] = await _ask(house, http, number, case)

        await asyncio.gather(*(several() for _ in range(len(cases) if silent else 4)))
        verified = (await http.post("/api/v1/ledger/verify")).json()["ok"]
        savings = (await http.get("/api/v1/savings")).json()
    return Part(seen, estimated["prompt_tokens"], verified, savings)


@pytest.fixture(scope="module")
async def matrix(fault_server: str, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Ask all cases, several at once."""
    cases = list(enumerate(_cases()))
    parts = await asyncio.gather(
        *(
            _play(
                tmp_path_factory.mktemp("matrix"),
                fault_server,
                [each for each in cases if (each[1][1] in SILENT) is silent],
                silent=silent,
            )
            for silent in (True, False)
        )
    )
    return Matrix(
        seen={case: seen for part in parts for case, seen in part.seen.items()},
        prompt=parts[0].prompt,
        verified=all(part.verified for part in parts),
        savings=[part.savings for part in parts],
    )


def rows_with(stream: bool, *lists: list[Row]) -> list[Any]:
    """Return parameters for rows that are asked plain or streamed."""
    how = "stream" if stream else "plain"
    return [pytest.param(row, stream, id=f"{row.fault}-{how}") for row in itertools.chain(*lists)]


REFUSED = [
    *rows_with(False, BEFORE, OVERFLOW, [REJECTED], PLAIN_ONLY),
    *rows_with(True, BEFORE, OVERFLOW, [REJECTED], STREAM_ONLY),
]
FALLEN_BACK = [
    *rows_with(False, BEFORE, OVERFLOW, PLAIN_ONLY),
    *rows_with(True, BEFORE, OVERFLOW, STREAM_ONLY),
]


@pytest.mark.parametrize("way", TRANSPORTS)
@pytest.mark.parametrize(("row", "stream"), REFUSED)
def test_alone(matrix: Matrix, row: Row, stream: bool, way: str) -> None:
    """Without another candidate the client gets one clean JSON error, and the ledger what the table says."""
    seen = matrix.seen[way, row.fault, stream, True]
    code = LITELLM_SAYS.get((row.fault, stream), row.code) if way == "litellm" else row.code
    assert (seen.status, seen.error["code"]) == (row.status, code)
    assert seen.headers["content-type"] == "application/json"
    owes = row.stream_owes if stream and row.stream_owes is not None else row.owes
    assert (seen.used, seen.held) == (matrix.owed(owes), 0)
    for address in ("127.0.0.1", "10.0.0.7", "engine.invalid"):
        assert address not in seen.body
    tried = seen.headers.get("x-trivet-attempt-path", "")
    result = code.removeprefix("upstream_")
    assert all(step == f"light/{way}-{row.fault}:{result}" for step in tried.split(", ") if step)
    assert len(seen.error["trivet"].get("attempts", ())) == int(seen.headers["x-trivet-attempts"])


@pytest.mark.parametrize("way", TRANSPORTS)
@pytest.mark.parametrize(("row", "stream"), FALLEN_BACK)
def test_with_another(matrix: Matrix, row: Row, stream: bool, way: str) -> None:
    """An engine that is well answers in its place; what fell silent before is charged beside the answer."""
    seen = matrix.seen[way, row.fault, stream, False]
    assert (seen.status, seen.headers["x-trivet-tier"]) == (200, "standard")
    assert seen.headers["x-trivet-attempt-path"].endswith(f"standard/{way}-well:ok")
    owes: Owes = "nothing" if row.owes == "nothing" else "prompt"
    assert (seen.used, seen.held) == (min(ANSWER + matrix.owed(owes), matrix.owed("ceiling")), 0)
    if stream:
        assert seen.body.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("way", TRANSPORTS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_requests_own_fault(matrix: Matrix, stream: bool, way: str) -> None:
    """What the request is at fault for is told, and not tried elsewhere."""
    seen = matrix.seen[way, REJECTED.fault, stream, False]
    assert (seen.status, seen.error["code"]) == (REJECTED.status, REJECTED.code)
    assert seen.headers["x-trivet-attempts"] == "1"
    assert (seen.used, seen.held) == (0, 0)


@pytest.mark.parametrize("way", TRANSPORTS)
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("fault", AFTER)
def test_after_the_first_content(matrix: Matrix, fault: str, alone: bool, way: str) -> None:
    """A stream that breaks ends with an error event, without finish and [DONE]; nobody else takes over."""
    seen = matrix.seen[way, fault, True, alone]
    events = [json.loads(event.removeprefix("data: ")) for event in seen.body.strip().split("\n\n")]
    choices = [choice for event in events for choice in event.get("choices", ())]
    assert seen.status == 200
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "alpha beta "
    assert [choice for choice in choices if choice["finish_reason"]] == []
    assert seen.error["code"] == AFTER[fault]
    assert "[DONE]" not in seen.body
    assert (seen.used, seen.held) == (matrix.prompt + SEEN, 0)
    assert seen.headers["x-trivet-attempt-path"] == f"light/{way}-{fault}:ok"


@pytest.mark.parametrize("way", TRANSPORTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", WELL)
def test_what_is_no_failure(matrix: Matrix, fault: str, stream: bool, way: str) -> None:
    """A slow drip is kept, and usage that cannot be true costs no more than was held."""
    seen = matrix.seen[way, fault, stream, True]
    assert (seen.status, seen.held) == (200, 0)
    if fault == "drip":
        assert seen.used == ANSWER
    else:
        assert matrix.prompt < seen.used <= matrix.owed("ceiling")


@pytest.mark.parametrize("way", TRANSPORTS)
def test_retry_after_is_passed_on(matrix: Matrix, way: str) -> None:
    """A busy engine's own word is told; one that is just broken promises nothing."""
    busy = [matrix.seen[way, "429", stream, True].headers["retry-after"] for stream in (False, True)]
    assert all(1 <= int(seconds) <= 7 for seconds in busy)
    assert "7" in busy
    assert "retry-after" not in matrix.seen[way, "500", False, True].headers


def test_the_books_and_the_clock(matrix: Matrix) -> None:
    """The ledger proves itself, and the requests' device time adds up to the devices' busy time."""
    assert matrix.verified
    for savings in matrix.savings:
        attributed, busy = savings["attributed"], savings["busy"]
        assert attributed == pytest.approx(busy, abs=1e-5)
        assert attributed == pytest.approx(savings["busy_check"], rel=0.005)


def test_both_transports_fail_alike(matrix: Matrix) -> None:
    """LiteLLM's transport gives the client the same statuses, codes and charges as the relay."""
    differ = {}
    for (way, fault, stream, alone), seen in matrix.seen.items():
        other = matrix.seen["litellm", fault, stream, alone]
        ours, theirs = ((s.status, s.used, s.headers["x-trivet-tier"]) for s in (seen, other))
        if way == "relay" and ours != theirs:
            differ[fault, stream, alone] = (ours, theirs)
    assert differ == {}
