"""Batches: files of requests that wait in the store, are worked off behind, and keep their results."""

from trivet.batches.records import Batch, LineOrder, Result, WaitingLine
from trivet.batches.store import Batches
from trivet.batches.work import BatchWork, Claim, Ending

__all__ = ["Batch", "BatchWork", "Batches", "Claim", "Ending", "LineOrder", "Result", "WaitingLine"]
