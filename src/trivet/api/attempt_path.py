"""What was tried for a request, as a header tells it: `light/qwen:timeout, standard/llama:ok`."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from trivet.api.asgi import HEADER_CHARS_MAX, clean_text
from trivet.domain.outcomes import Attempt


def path_of(attempts: Sequence[Attempt]) -> str:
    """Return the attempts in order, fit for a head: tier, deployment, `ok` or the error's code."""
    steps = [_step(each.deployment.tier.name, each.deployment.name, each.error_code) for each in attempts]
    return ", ".join(steps)[:HEADER_CHARS_MAX]


def path_told(attempts: Iterable[Mapping[str, Any]]) -> str:
    """Return the same of the attempts that an error lists in its details."""
    return ", ".join(_step(each["tier"], each["deployment"], each["code"]) for each in attempts)


@lru_cache(maxsize=1024)
def _step(tier: str, deployment: str, code: str | None) -> str:
    return clean_text(f"{tier}/{deployment}:{'ok' if code is None else code.removeprefix('upstream_')}")
