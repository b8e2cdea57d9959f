"""One line of `trivet doctor`: what was looked at, how it is, and what to do about it."""

import re
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]

# Engines' and the configuration's sentences carry their own advice; it begins with one of these words.
_ADVICE = re.compile(
    r"^(?P<what>.+?[.:;]) (?P<fix>(?:Run|Start|Set|Restart|See|Add|Use|Give|Is it|Did|Allowed)\b.+)$",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A check with its outcome. A warning works today; an error does not."""

    check: str
    state: State
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it for programs."""
        return {"check": self.check, "state": self.state, "detail": self.detail, "fix": self.fix}


def ok(check: str, detail: str) -> Finding:
    """Return that a thing is as it should be."""
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, fix: str) -> Finding:
    """Return that a thing works, and could stop doing so or do better."""
    return Finding(check, "warning", detail, fix)


def error(check: str, detail: str, fix: str) -> Finding:
    """Return that a thing does not work."""
    return Finding(check, "error", detail, fix)


def told(check: str, state: State, sentence: str, *, otherwise: str) -> Finding:
    """Return a finding from a sentence that may hold its own advice, which becomes the fix.

    Args:
        check: what was looked at.
        state: how it is.
        sentence: what somebody said of it.
        otherwise: the fix where the sentence holds none.
    """
    match = _ADVICE.match(sentence.strip())
    if match is None:
        return Finding(check, state, sentence.strip(), otherwise)
    fix = match["fix"]
    return Finding(check, state, match["what"].rstrip(":;"), fix[0].upper() + fix[1:])
