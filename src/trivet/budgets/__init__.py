"""Budgets: the ledger that holds, settles and proves, over a tree of scopes, meters and windows."""

from trivet.budgets.ledger import Ledger
from trivet.budgets.status import Limit
from trivet.budgets.store import AlsoWrite, LedgerStore, OverrideRequest
from trivet.budgets.verify import VerifyReport
from trivet.budgets.windows import window_at

__all__ = ["AlsoWrite", "Ledger", "LedgerStore", "Limit", "OverrideRequest", "VerifyReport", "window_at"]
