"""The slow path: which engines run where, and whether they answer."""

from trivet.fleet.endpoint import Endpoint
from trivet.fleet.fleet import Fleet
from trivet.fleet.lending import Lease

__all__ = ["Endpoint", "Fleet", "Lease"]
