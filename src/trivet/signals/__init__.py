"""Signals: what happened is told to whoever asked to be told, at least once, and kept until then."""

from trivet.signals.courier import Courier, couriers
from trivet.signals.model_events import ModelEvents
from trivet.signals.outbox import TEST_KIND, Delivery, Outbox, OutboxState

__all__ = ["TEST_KIND", "Courier", "Delivery", "ModelEvents", "Outbox", "OutboxState", "couriers"]
