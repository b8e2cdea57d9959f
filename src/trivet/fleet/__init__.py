"""The slow path: which engines run where, and whether they answer."""

from trivet.fleet.fleet import Fleet

__all__ = ["Fleet"]
