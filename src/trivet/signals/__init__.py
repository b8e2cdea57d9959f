"""Signals: what happened is told to whoever asked to be told, at least once, and kept until then."""

from trivet.signals.courier import Courier, couriers
from trivet.signals.outbox import Delivery, Outbox, OutboxState

__all__ = ["Courier", "Delivery", "Outbox", "OutboxState", "couriers"]
