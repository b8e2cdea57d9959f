"""Checking the messages of a body: their shape, and that nobody has to fetch anything for them."""

from collections.abc import Iterator
from typing import Any

from trivet.domain.errors import RequestMalformed

MESSAGES_LIMIT = 2048

_REFERENCES = frozenset({"url", "file_id", "image", "video", "audio", "input_image", "input_video"})
_DATA = frozenset({"data", "file_data"})
_NAMES = ("name", "tool_call_id")
_PROSE = frozenset({"type", "text", "refusal"})


def check_messages(messages: Any) -> None:
    """Check the list of messages.

    Raises:
        RequestMalformed: with `param` naming the message and the field at fault.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestMalformed(
            "messages must be a list with at least one message.",
            hint='For example [{"role": "user", "content": "Hello"}].',
            param="messages",
        )
    if len(messages) > MESSAGES_LIMIT:
        raise RequestMalformed(
            f"messages has {len(messages)} entries; {MESSAGES_LIMIT} are allowed.",
            hint="Drop or summarise the oldest turns.",
            param="messages",
        )
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            param = f"messages[{position}]"
            raise RequestMalformed(f"{param} must be an object.", param=param)
        role = message.get("role")
        if not isinstance(role, str) or not role:
            param = f"messages[{position}].role"
            raise RequestMalformed(
                f"{param} must be a string.", hint="One of system, user, assistant, tool.", param=param
            )
        for key in _NAMES:
            if key in message and not isinstance(message[key], str | None):
                param = f"messages[{position}].{key}"
                raise RequestMalformed(f"{param} must be a string.", param=param)
        content, calls = message.get("content"), message.get("tool_calls")
        if content is not None and not isinstance(content, str):
            _check_parts(content, f"messages[{position}].content")
        if calls is not None:
            _check_tool_calls(calls, f"messages[{position}].tool_calls")


def _check_parts(content: Any, param: str) -> None:
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    ):
        raise RequestMalformed(
            f"{param} must be a string, a list of content parts, or null.",
            hint='A part is an object such as {"type": "text", "text": "Hello"}.',
            param=param,
        )
    for position, part in enumerate(content):
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise RequestMalformed(
                f"{param}[{position}].text must be a string.",
                hint='For example {"type": "text", "text": "Hello"}.',
                param=f"{param}[{position}].text",
            )
        check_part(part, f"{param}[{position}]")


def check_part(part: dict[str, Any], param: str) -> None:
    """Refuse a part that holds an address or a file's name instead of the data.

    Engines fetch what such a part names, from their network: a tenant could have them ask any address
    that only they can reach. What a part is called does not matter, since engines go by its keys.
    """
    for key, text in _strings(part):
        if text.startswith("data:"):
            continue
        # Base64 has no colon; an address has.
        address = key in _REFERENCES or key.endswith("_url") or (":" if key in _DATA else "://") in text
        if address:
            raise RequestMalformed(
                f"{param} names something to be fetched ({key}), and Trivet has nothing fetched.",
                hint="Send the content itself, as a data: URL: data:image/png;base64,...",
                param=param,
            )


def _strings(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the part's strings at any depth with the key that each stands under, but not its prose."""
    waiting: list[tuple[str, Any]] = list(part.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            if key not in _PROSE:
                yield key, value
        elif isinstance(value, dict):
            waiting.extend(value.items())
        elif isinstance(value, list):
            waiting.extend((key, entry) for entry in value)


def _check_tool_calls(calls: Any, param: str) -> None:
    if not isinstance(calls, list):
        raise RequestMalformed(f"{param} must be a list of tool calls.", param=param)
    for position, call in enumerate(calls):
        place = f"{param}[{position}]"
        if not isinstance(call, dict):
            raise RequestMalformed(f"{place} must be an object.", param=place)
        if call.get("type", "function") != "function":
            continue
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestMalformed(
                f"{place}.function must be an object with a name.",
                hint='For example {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}.',
                param=f"{place}.function",
            )
