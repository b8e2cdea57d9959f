"""Cutting a byte stream into events, and telling what each is."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.chat_wire import FRAME_MAX_BYTES, ChatEvents, classify, classify_parsed, content_size
from trivet.engines.sse import EVENT_LIMIT_BYTES, ChatEvent, EventSplitter

LLAMA_STREAM = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}\n\n'
    b": keep-alive\n\n"
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"n\xc3\xa9"}}],"model":"x"}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" t\\n\\n"}}],"model":"x"}\n\n'
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"model":"x"}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":18,"total_tokens":20}}\n\n'
    b"data: [DONE]\n\n"
)
CRLF_STREAM = LLAMA_STREAM.replace(b"\n\n", b"\r\n\r\n")


def chunk(delta: object, *, finish: str | None = None, **more: object) -> bytes:
    """Return one event as an engine with compact JSON writes it."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


def fed(parts: list[bytes]) -> list[bytes]:
    """Return the events of a stream that arrives in these parts."""
    splitter = EventSplitter()
    return [event for part in parts for event in splitter.feed(part)] + splitter.end()


@pytest.mark.parametrize("stream", [LLAMA_STREAM, CRLF_STREAM], ids=["lf", "crlf"])
@given(cuts=st.lists(st.integers(min_value=0, max_value=len(CRLF_STREAM)), max_size=40))
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    """However a stream's bytes are cut into reads, the events are the same and no byte is lost."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parts = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert fed(parts) == fed([stream])
    assert b"".join(fed(parts)) == stream
    assert len(fed(parts)) == 7


@given(data=st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"data: x", b": c"]), max_size=30))
def test_odd_blank_lines_split_alike(data: list[bytes]) -> None:
    """Runs of blank lines and mixed line ends are cut in the same way byte by byte as at once."""
    stream = b"".join(data)
    assert fed([bytes([byte]) for byte in stream]) == fed([stream])


def test_kinds_of_a_real_stream() -> None:
    """llama.cpp's events are told apart."""
    kinds = [classify(event).kind for event in fed([LLAMA_STREAM])]
    assert kinds == ["role", "comment", "content", "content", "finish", "usage", "done"]


@pytest.mark.parametrize(
    "parts", [[b"x" * (EVENT_LIMIT_BYTES + 1)], [b"data: ", b"x" * EVENT_LIMIT_BYTES + b"\n\n"]]
)
def test_an_event_too_large_is_refused(parts: list[bytes]) -> None:
    """An event beyond the limit is an error, finished or not."""
    with pytest.raises(EngineBroken):
        fed(parts)


def test_the_last_blank_line_may_be_missing() -> None:
    """What remains when the stream ends is an event of its own; blank remains are none."""
    assert fed([b"data: [DONE]"]) == [b"data: [DONE]"]
    assert fed([b"data: [DONE]\n\n\r\n"]) == [b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (chunk({"content": "a"}), "content"),
        (chunk({"content": ""}), "role"),
        (chunk({"role": "assistant", "content": ""}), "role"),
        (chunk({"role": "assistant", "content": None}), "role"),
        (chunk({"role": "assistant"}), "role"),
        (chunk({"role": "assistant", "content": "a"}), "content"),
        (chunk({"tool_calls": [{"index": 0, "function": {"name": "now", "arguments": ""}}]}), "content"),
        (chunk({"tool_calls": []}), "role"),
        (chunk({"reasoning_content": "hm"}), "content"),
        (chunk({"reasoning": "hm"}), "content"),
        (chunk({"content": ""}, logprobs={"content": [{"token": "a", "logprob": -1}]}), "content"),
        (chunk({"content": ""}, logprobs=None), "role"),
        (chunk({}, finish="stop"), "finish"),
        (chunk({"content": "a"}, finish="length"), "content"),
        (chunk({"content": '"error" "usage":{ "finish_reason":null'}), "content"),
        (chunk({"content": ""}, note='"content":"a"'), "role"),
        (chunk(None), "role"),
        (b"data: [DONE]\n\n", "done"),
        (b"data:[DONE]\r\n\r\n", "done"),
        (b": ping\n\n", "comment"),
        (b"\n\n", "comment"),
        (b"event: ping\n\n", "comment"),
        (b'data: {"choices":[]}\n\n', "role"),
        (b'data: {"choices":[],"usage":null}\n\n', "role"),
        (b'data: {"choices":[],"usage":{"prompt_tokens":-1}}\n\n', "usage"),
        (b"data: {{{\n\n", "broken"),
        (b"data: [1]\n\n", "broken"),
        (b'data: {"object":"x"}\n\n', "broken"),
        (b'data: {"choices":5}\n\n', "broken"),
        (b'data: {"choices":[5]}\n\n', "broken"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "broken"),
        (b'data: {"error":{"message":"no","code":503}}\n\n', "error"),
        (b'data: {"error":"no"}\n\n', "error"),
        (b'data: {"error":null,"choices":[]}\n\n', "role"),
        (b'error: {"message":"no","code":500}\n\n', "error"),
        (b'event: error\ndata: {"error":{"message":"no"}}\n\n', "error"),
        (b"event: error\ndata: it broke\n\n", "error"),
        (b'data: {"choices":\ndata: []}\n\n', "role"),
    ],
)
def test_kind(event: bytes, kind: str) -> None:
    """Each event is what its bytes say, whichever way it is read."""
    assert classify(event).kind == kind
    assert classify_parsed(event).kind == kind


@given(text=st.text(min_size=1), ascii_only=st.booleans())
def test_no_text_deceives_the_quick_look(text: str, ascii_only: bool) -> None:
    """Whatever is generated, the quick look and the full reading agree."""
    document = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    try:
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    event = b"data: " + data + b"\n\n"
    assert (classify(event).kind, classify_parsed(event).kind) == ("content", "content")


def test_choices_usage_and_error_are_read() -> None:
    """The full reading says which choices an event speaks of and ends, its usage, its error."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    choices = [
        {"index": 1, "delta": {}, "finish_reason": "stop"},
        {"index": 0, "delta": {"content": "a"}, "finish_reason": None},
        {"index": "two", "delta": {}},
    ]
    event = b"data: " + json.dumps({"choices": choices, "usage": usage}).encode() + b"\n\n"
    expected = ChatEvent("content", seen=frozenset({0, 1}), ended=frozenset({1}), usage=Usage(3, 4))
    assert classify(event) == expected
    assert classify(b'data: {"error":"no","code":503}\n\n').error == {"message": "no", "code": 503}


EVENTS = [
    chunk({"content": "word"}),
    chunk({"content": "né €"}),
    chunk({"content": 'a "quoted" one\n'}),
    chunk({"content": ""}),
    chunk({"content": "x"}, logprobs={"content": [{"token": "x"}]}),
    chunk({"content": "last"}, finish="stop"),
    chunk({"reasoning_content": "thought"}),
    chunk({"reasoning_content": "thought", "content": "said"}),
    chunk({"role": "assistant", "content": None}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"content":"no"}'}}]}),
    chunk({"content": "x"})[:-2] + b"\r\n\r\n",
    b'data: {"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":18,"total_tokens":20}}\n\n',
    b'data: {"error":"content":"x","finish_reason":null}\n\n',
    b': "content":"x" "finish_reason":null}\n\n',
    b"data: [DONE]\n\n",
]


@given(events=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=12), data=st.data())
def test_what_is_skimmed_is_plain_text(events: list[bytes], data: st.DataObject) -> None:
    """What is skipped over is what a look at each event would have found: content and nothing else."""
    reader, index, stream = ChatEvents(), 0, b"".join(events)
    while index < len(events):
        at = len(b"".join(events[:index]))
        plain, size, end = reader.skim(stream, at)
        skimmed = events[index : index + plain]
        assert stream[at:end] == b"".join(skimmed)
        assert all(classify(event) == ChatEvent("content") for event in skimmed)
        assert size == sum(map(content_size, skimmed))
        index += plain
        for event in events[
            index : index + (0 if plain else data.draw(st.integers(min_value=1, max_value=2)))
        ]:
            assert reader.classify(event) == classify(event)
            index += 1


def test_most_of_a_stream_is_skimmed() -> None:
    """Text in pieces takes no look at each of them, also where a stream begins anew or is interrupted."""
    word, other, end = EVENTS[0], chunk({"content": "n"}, seed=1), EVENTS[5]
    reader = ChatEvents()
    assert reader.skim(word * 64, 0) == (0, 0, 0)
    for piece in (word, EVENTS[2], EVENTS[9], end):  # of these only the first is plain
        reader.classify(piece)
    assert reader.skim(word * 64, 0) == (64, 64 * 4, 64 * len(word))
    assert reader.skim(word * 64 + word[:-1], 0) == (64, 64 * 4, 64 * len(word))
    assert reader.skim(word + EVENTS[3] + word, 0) == (1, 4, len(word))
    assert reader.skim(word + EVENTS[2] + word, 0) == (1, 4, len(word))
    assert reader.skim(end + word + word + end, len(end)) == (2, 8, len(end + word + word))
    assert reader.skim(other + other + word, 0) == (0, 0, 0)
    reader.classify(other)
    assert reader.skim(other + other + word, 0) == (2, 2, 2 * len(other))


def test_streams_that_begin_alike_are_skimmed_from_their_first_piece() -> None:
    """What one stream has shown of its pieces is known of the next, and is not believed of others."""
    role = (
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"n":6}\n\n'
    )
    piece = b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],"n":6}\n\n'
    first = ENVELOPE % (b"a", 7)
    reader = ChatEvents()
    for event in (first + role, first + piece % b"word"):
        reader.classify(event)
    later = ENVELOPE % (b"bcd", 8)
    reader = ChatEvents()
    assert reader.classify(later + role) == classify(later + role)
    texts = (b"some", b" more", b" text")
    stream = b"".join(later + piece % text for text in texts)
    assert reader.skim(stream, 0) == (3, len(b"".join(texts)), len(stream))
    for told in (later + piece % b"", first + piece % b"a", later + piece.replace(b"null", b'"stop"') % b"a"):
        assert reader.skim(told + stream, 0) == (0, 0, 0)
    odd = later + piece.replace(b"}]", b"},{}]") % b"a"
    assert reader.skim(odd + stream, 0) == (0, 0, 0)
    assert reader.skim(stream + odd, 0)[0] == 3
    wide = piece.replace(b'"n":6', b'"n":"%b"' % (b"x" * FRAME_MAX_BYTES)) % b"word"
    reader = ChatEvents()
    for event in (first + role, first + wide):
        reader.classify(event)
    assert reader.skim(first + wide, 0)[0] == 1
    reader = ChatEvents()
    reader.classify(later + role)
    assert reader.skim(stream, 0)[0] == 3  # what is too large to be kept leaves what was known


ENVELOPE = b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":"m",'
ENDS = [
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n',
    b'"choices":[{"index":1,"delta":{},"finish_reason":"length","stop_reason":null}]}\n\n',
    b'"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":4}}\n\n',
    b'"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":null}\n\n',
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"error":{"message":"no %d"}}\n\n',
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]\n\n',
    b'"error":"no","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'"choices":[{"index":0,\n\n"delta":{}}]}\n\n',
]


@pytest.mark.parametrize("end", ENDS)
def test_an_event_says_the_same_in_every_stream(end: bytes) -> None:
    """Whether its like was read before or not; where the numbers in it differ, so does what it says."""
    for number in (3, 5):
        told = end.replace(b"%d", b"%d" % number)
        # With spaces in the envelope it is always read.
        read = classify_parsed((ENVELOPE % (b"a", 7)).replace(b'"id"', b' "id"') + told)
        event = ENVELOPE % (b"b%d" % number, 8 + number) + told
        assert classify_parsed(event) == read
        reader = ChatEvents()
        assert [reader.classify(event).kind for _ in range(2)] == [read.kind] * 2


@pytest.mark.parametrize("name", [b'a"', b"a\\", b"\xff", b'a","error":{"message":"no"},"x":"'])
def test_an_odd_envelope_is_read(name: bytes) -> None:
    """Nothing passes for an end that is no JSON, or says more."""
    end = ENDS[1]
    assert classify_parsed(ENVELOPE % (b"a", 7) + end).kind == "finish"
    assert classify_parsed(ENVELOPE % (name, 7) + end).kind in ("broken", "error")
