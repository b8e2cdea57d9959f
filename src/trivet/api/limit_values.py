"""Limits as JSON writes them: `{"daily": 1000, "monthly": {"limit": 20000, "critical_allowance": 500}}`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, StrictInt, model_validator
from pydantic_core import CoreSchema, PydanticCustomError


class LimitValue(BaseModel):
    """A limit with what critical requests may use beyond it; a number alone is one without."""

    model_config = ConfigDict(extra="forbid")

    limit: StrictInt | None
    critical_allowance: StrictInt = 0

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        # Not a union with int: what is wrong with an object would be told of the number that it is not.
        if isinstance(value, int) and not isinstance(value, bool):
            return {"limit": value}
        if isinstance(value, dict):
            return value
        raise PydanticCustomError(
            "limit_value", 'a limit is a whole number, null, or {"limit": 1000, "critical_allowance": 50}'
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe both forms."""
        return {"anyOf": [{"type": "integer"}, handler(schema)]}


Limits = dict[str, LimitValue | None]
"""By names such as `daily` or `usd_micros.monthly`; None lifts a limit."""


def told(limits: Mapping[str, LimitValue | None]) -> dict[str, Any]:
    """Return the limits as plain values."""
    return {name: None if value is None else value.model_dump() for name, value in limits.items()}
