"""Checking tools and the form of the answer: engines answer some malformed ones as if they had failed."""

from collections.abc import Mapping
from typing import Any

from trivet.domain.errors import RequestMalformed

_FIELDS = frozenset({"tools", "tool_choice", "response_format"})
_TOOL_HINT = 'For example {"type": "function", "function": {"name": "weather", "parameters": {...}}}.'


def check_tools(body: Mapping[str, Any]) -> None:
    """Check `tools`, `tool_choice` and `response_format`; null counts as absent.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    if _FIELDS.isdisjoint(body):
        return
    tools, choice, form = body.get("tools"), body.get("tool_choice"), body.get("response_format")
    if tools is not None:
        if not isinstance(tools, list) or not tools:
            raise RequestMalformed(
                "tools must be a list with at least one tool.",
                hint="Leave it out where there are none.",
                param="tools",
            )
        for position, tool in enumerate(tools):
            _check_tool(tool, f"tools[{position}]")
    if choice is not None and not isinstance(choice, str | dict):
        raise RequestMalformed(
            "tool_choice must be a string or an object.",
            hint='For example "auto", "none" or "required".',
            param="tool_choice",
        )
    if form is not None and not (isinstance(form, dict) and isinstance(form.get("type"), str)):
        raise RequestMalformed(
            "response_format must be an object with a type.",
            hint='For example {"type": "json_object"}.',
            param="response_format",
        )


def _check_tool(tool: Any, param: str) -> None:
    if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
        raise RequestMalformed(f"{param} must be an object with a type.", hint=_TOOL_HINT, param=param)
    if tool["type"] != "function":
        return
    function = tool.get("function")
    place = f"{param}.function"
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RequestMalformed(f"{place} must be an object with a name.", hint=_TOOL_HINT, param=place)
    if not isinstance(function.get("parameters"), dict | None):
        raise RequestMalformed(
            f"{place}.parameters must be an object: a JSON schema.", param=f"{place}.parameters"
        )
