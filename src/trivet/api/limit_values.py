"""Limits as JSON writes them: `{"daily": 1000, "monthly": {"limit": 20000, "critical_allowance": 500}}`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt


class LimitValue(BaseModel):
    """A limit with what critical requests may use beyond it."""

    model_config = ConfigDict(extra="forbid")

    limit: StrictInt | None
    critical_allowance: StrictInt = 0


def told(limits: Mapping[str, int | LimitValue | None]) -> dict[str, Any]:
    """Return the limits as plain values."""
    return {
        name: value.model_dump() if isinstance(value, LimitValue) else value for name, value in limits.items()
    }
