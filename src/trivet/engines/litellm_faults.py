"""Say in Trivet's words what LiteLLM raises.

LiteLLM gives "refused", "reset" and "answered 500" the same class. What really happened stands in the chain
of causes below it: the HTTP answer, the error event, or aiohttp's exception; LiteLLM's own class decides only
where the chain says nothing.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp

from trivet.domain.errors import EngineBroken, EngineError, EngineIncapable, EngineTimeout
from trivet.engines.faults import fault_from_event, fault_from_exception, fault_from_status, message_in

READ_HINT = "Check its messages, tools and response_format against OpenAI's reference."
MODEL_HINT = "Write the deployment's `model` as LiteLLM does: provider/model."

_PREFIXES = re.compile(r"^(?:litellm\.\w+: |\w+Error: |\w+Exception - )+")
_OLLAMA_ERROR_LINE = re.compile(r"Got unexpected response from Ollama: (\{.*\})", re.DOTALL)
_STATUS_CLASSES = frozenset(
    {
        "AuthenticationError",
        "BadRequestError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitError",
        "ServiceUnavailableError",
        "BadGatewayError",
        "UnprocessableEntityError",
    }
)


class NeverAsked(Exception):
    """LiteLLM failed before it wanted a connection: the engine knows nothing of the request."""


@contextmanager
def engine_faults(*, answered: bool) -> Iterator[None]:
    """Turn whatever LiteLLM raises within into an EngineError.

    Args:
        answered: whether the answer's head had arrived before.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        # LiteLLM lets its providers' exceptions of every kind through.
        raise fault_from_litellm(error, answered=answered) from error


def fault_from_litellm(error: BaseException, *, answered: bool) -> EngineError:
    """Return the error that an exception of LiteLLM stands for; `answered` as in `engine_faults`."""
    links = list(_links(error))
    for tell in (_from_http_answer, _from_error_event, _from_ollama_line):
        fault = tell(links)
        if fault is not None:
            return fault
    for link in links:
        if isinstance(link, aiohttp.ClientError | TimeoutError | OSError):
            heard = answered or isinstance(link, aiohttp.ClientPayloadError)
            return fault_from_exception(link, answered=heard)
    return _from_class(links, answered=answered)


def connection_broke(fault: EngineError) -> bool:
    """Tell whether an error of `engine_faults` is about the connection, not about what was said on it."""
    return any(isinstance(link, aiohttp.ClientError | OSError) for link in _links(fault))


def _links(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        original = getattr(link, "original_exception", None)
        link = original if isinstance(original, BaseException) else link.__cause__ or link.__context__


def _from_http_answer(links: list[BaseException]) -> EngineError | None:
    # httpx's own status error is the one that never stands for anything but an answer.
    answers = [link for link in links if _is(link, "HTTPStatusError")]
    if not answers:
        return None
    response: Any = getattr(answers[-1], "response", None)
    words = next(filter(None, map(_words, links)), "") or _unread_words(response)
    return fault_from_status(int(response.status_code), words, _case_insensitive(response.headers))


def _from_error_event(links: list[BaseException]) -> EngineError | None:
    for link in links:
        body = getattr(link, "body", None)
        if _is(link, "APIError") and type(link).__module__.startswith("openai") and isinstance(body, dict):
            return fault_from_event(body.get("error") or body)
    return None


def _from_ollama_line(links: list[BaseException]) -> EngineError | None:
    for link in links:
        line = _OLLAMA_ERROR_LINE.search(str(link))
        if line is None:
            continue
        try:
            document = ast.literal_eval(line[1])
        except (ValueError, SyntaxError):
            document = None
        error = document.get("error") if isinstance(document, dict) else None
        return (
            fault_from_event(error)
            if error
            else EngineBroken("The engine's answer is not Ollama's.", status=200)
        )
    return None


def _from_class(links: list[BaseException], *, answered: bool) -> EngineError:
    for link in links:
        message = _PREFIXES.sub("", str(getattr(link, "message", None) or link))
        if _is(link, "UnsupportedParamsError"):
            return EngineIncapable("The provider does not know a field of this request.", hint=message[:200])
        if "LLM Provider NOT provided" in message:
            return EngineBroken("LiteLLM does not know this model's provider.", hint=MODEL_HINT)
        if _is(link, "ContextWindowExceededError"):
            return fault_from_status(400, f"maximum context length: {message}")
        if _is(link, "Timeout"):
            return EngineTimeout("The engine did not answer in time.")
        status = getattr(link, "status_code", None)
        if type(link).__name__ in _STATUS_CLASSES and isinstance(status, int):
            headers = getattr(link, "litellm_response_headers", None)
            return fault_from_status(status, message, _case_insensitive(headers))
    # The message may hold a traceback or an answer's text: neither is for a tenant.
    kind = type(links[-1]).__name__
    if isinstance(links[0], NeverAsked) and not isinstance(links[-1], ImportError):
        return EngineIncapable(f"LiteLLM cannot say this request to the engine ({kind}).", hint=READ_HINT)
    if answered or any(_is_unreadable(link) for link in links) or _is_own(links[-1]):
        return EngineBroken(f"The engine's answer could not be read ({kind}).", status=200)
    return EngineBroken(f"LiteLLM failed to ask the engine ({kind}).")


def _is_own(link: BaseException) -> bool:
    # With nothing below it, LiteLLM made it of what it read.
    return type(link).__module__.startswith("litellm")


def _is_unreadable(link: BaseException) -> bool:
    # LiteLLM reads only the bodies of good answers.
    return isinstance(link, ValueError | LookupError | TypeError)


def _is(link: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(link).__mro__)


def _words(source: Any) -> str:
    body = getattr(source, "body", None)
    if isinstance(body, dict):
        return message_in(json.dumps({"error": body} if "error" not in body else body).encode())
    if _is(source, "BaseLLMException"):
        return message_in(str(getattr(source, "message", "")).encode())
    return ""


def _unread_words(response: Any) -> str:
    # Where LiteLLM passes an answer on as it came, its body is still there.
    try:
        content = response.content
    except (AttributeError, RuntimeError):  # httpx's word for a body that nobody has read
        return ""
    return message_in(content) if isinstance(content, bytes) and content else ""


def _case_insensitive(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}
