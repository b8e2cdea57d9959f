"""What a request asks of a gate."""

from typing import NamedTuple

from trivet.domain.budgets import Priority
from trivet.domain.scopes import Scope

LIKELY_BYTES_PER_TOKEN = 4
"""The ceiling of a prompt's tokens counts its bytes."""


class Claim(NamedTuple):
    """Who asks to be let through to an engine, how urgently, and for how much work."""

    scope: Scope
    priority: Priority
    work: int
    """Tokens, prompt and output, that it may take; an estimate, so only ratios of it are used."""
    prompt_bytes: int = 0
    """Size of the prompt: the time to its first token is compared with that of prompts of like size."""
    streamed: bool = True
    """A plain answer shows no first token, so it says nothing about the engine's load."""
