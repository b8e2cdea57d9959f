"""Budgets: the ledger that holds, settles and proves, over a tree of scopes and calendar windows."""

from trivet.budgets.ledger import AlsoWrite, Ledger
from trivet.budgets.rows import METER
from trivet.budgets.status import Limit
from trivet.budgets.verify import VerifyReport
from trivet.budgets.windows import window_at

__all__ = ["METER", "AlsoWrite", "Ledger", "Limit", "VerifyReport", "window_at"]
