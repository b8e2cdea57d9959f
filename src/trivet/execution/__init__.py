"""The fast path: one request, from decision to settlement."""

from trivet.execution.answer import Answer
from trivet.execution.breaker import Breakers
from trivet.execution.pipeline import Pipeline
from trivet.execution.settler import Settler

__all__ = ["Answer", "Breakers", "Pipeline", "Settler"]
