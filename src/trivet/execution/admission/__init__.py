"""How many requests an engine gets at once, who waits, who is sent away, and which engine takes a request."""

from trivet.execution.admission.admission import Admission, Entry
from trivet.execution.admission.claim import LIKELY_BYTES_PER_TOKEN, Claim
from trivet.execution.admission.gate import Gate, Ticket

__all__ = ["LIKELY_BYTES_PER_TOKEN", "Admission", "Claim", "Entry", "Gate", "Ticket"]
