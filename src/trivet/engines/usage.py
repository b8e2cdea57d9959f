"""Read an engine's own token counts, trusting none of them to be well formed."""

from collections.abc import Sequence
from typing import Any, TypeGuard

from trivet.domain.outcomes import Usage

TOKENS_BELIEVABLE = 100_000_000
"""No single request uses more tokens than this; a larger figure is a fault."""


def parse_usage(reported: Any) -> Usage | None:
    """Return the usage in an OpenAI `usage` object, or None where it is absent or cannot be a token count.

    Booleans, strings, fractions, negative and absurdly large numbers are no counts. A malformed
    `cached_tokens` alone is read as 0.
    """
    if not isinstance(reported, dict):
        return None
    prompt_tokens, completion_tokens = reported.get("prompt_tokens"), reported.get("completion_tokens")
    if not (_is_count(prompt_tokens) and _is_count(completion_tokens)):
        return None
    details = reported.get("prompt_tokens_details")
    if details is None:
        return Usage(prompt_tokens, completion_tokens)
    cached_tokens = details.get("cached_tokens") if isinstance(details, dict) else 0
    if not _is_count(cached_tokens):
        cached_tokens = 0
    return Usage(prompt_tokens, completion_tokens, cached_tokens=min(cached_tokens, prompt_tokens))


def shared_prompt(usages: Sequence[Usage]) -> Usage:
    """Return the usage of several choices of one request, each counted by itself, together.

    They share the prompt, which is therefore counted once; at least one usage must be given.
    """
    return Usage(
        prompt_tokens=max(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=min(usage.cached_tokens for usage in usages),
    )


def _is_count(value: Any) -> TypeGuard[int]:
    # bool is an int to Python, never to a tokenizer.
    return type(value) is int and 0 <= value <= TOKENS_BELIEVABLE
