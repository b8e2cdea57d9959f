"""Values: frozen where types are checked, and made at the price of a plain object where they are run.

A frozen dataclass asks at each assignment whether it may, its own first ones included, and takes four times
as long to be made as one that does not ask; a request makes some thirty. That nobody changes a value is told
by the type checker, to which a class decorated here is a frozen dataclass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """Make a class a slotted dataclass that is compared and hashed by its fields, never to be changed."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)
