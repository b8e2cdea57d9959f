"""All use cases of the administrative doors, together."""

from dataclasses import dataclass

from trivet.admin.alerts import AlertOffice
from trivet.admin.audits import AuditOffice
from trivet.admin.batches import BatchOffice
from trivet.admin.caches import CacheOffice
from trivet.admin.keys import KeyOffice
from trivet.admin.office import Office
from trivet.admin.overrides import OverrideOffice
from trivet.admin.rates import RateOffice


@dataclass(frozen=True, slots=True)
class Offices:
    """Who is asked for what."""

    books: Office
    """Budgets and reports."""
    keys: KeyOffice
    overrides: OverrideOffice
    rates: RateOffice
    alerts: AlertOffice
    audits: AuditOffice
    batches: BatchOffice
    caches: CacheOffice
