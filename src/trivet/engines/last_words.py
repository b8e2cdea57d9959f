"""What a failed engine's log says of the cause, for an operator's eyes. Pure."""

import re

WORDS_MAX = 400
_PREFIX = re.compile(r"^(?:\([^)]*\) )?(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\] ?")
"""vLLM's: "(EngineCore pid=9) ERROR 11-26 10:25:15 [v1/engine/core.py:906] "."""
_CAUSE = re.compile(
    r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b: ?\S|llamacpp_server: |cannot run |\S+: error: )"
    r"|out of memory|Segmentation fault"
)
_ECHO = re.compile(
    r"core initialization failed|EngineDeadError|WorkerProc initialization failed|CancelledError"
    r"|Future exception was never retrieved"
)
"""What vLLM's other processes say of it; the cause stands above."""
_UNFINISHED = re.compile(r"\d+ validation errors? for ")
"""pydantic tells what is wrong in the line after."""


def last_words(text: str) -> str:
    """Return the last line that says something, without the engine's own prefix."""
    return next((line[:WORDS_MAX] for line in _lines(text, backwards=True)), "")


def cause(text: str) -> str:
    """Return the line that tells why the engine ended: the last error that is no echo, else the last line."""
    lines = list(_lines(text))
    for number in range(len(lines) - 1, -1, -1):
        if _CAUSE.search(lines[number]) and not _ECHO.search(lines[number]):
            told = lines[number]
            if _UNFINISHED.search(told) and number + 1 < len(lines):
                told = lines[number + 1].partition(" [type=")[0]
            return told[:WORDS_MAX]
    return last_words(text)


def _lines(text: str, *, backwards: bool = False) -> list[str]:
    lines = (_PREFIX.sub("", line.strip()).strip() for line in text.splitlines())
    told = [line for line in lines if line and not line.startswith("[guardian ")]
    return told[::-1] if backwards else told
