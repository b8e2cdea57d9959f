"""OpenAI's embeddings as engines speak them."""

from trivet.domain.errors import EngineBroken
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.faults import fault_from_event
from trivet.engines.usage import parse_usage


def plain_vectors(body: bytes) -> PlainReply:
    """Return a whole answer as a Reply after checking that it holds vectors; nothing is generated.

    Raises:
        EngineError: it holds none, or it is an error object in a 200 answer.
    """
    document = parse_document(body)
    data = document.get("data")
    if document.get("error") and not data:
        raise fault_from_event(document["error"])
    if not isinstance(data, list) or not all(
        isinstance(each, dict) and isinstance(each.get("embedding"), list | str) for each in data
    ):
        raise EngineBroken("The engine's answer holds no vectors.", status=200)
    told = document.get("usage")
    # Engines that generate nothing do not always say so.
    usage = parse_usage({**told, "completion_tokens": 0}) if isinstance(told, dict) else None
    return PlainReply(body=body, usage=usage, finished=True, content_events=0, content_bytes=0)
