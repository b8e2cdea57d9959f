"""The doors' use cases, each with its permission check."""

from trivet.admin.alerts import AlertOffice
from trivet.admin.audits import AuditOffice
from trivet.admin.batches import BatchOffice
from trivet.admin.caches import CacheOffice
from trivet.admin.keys import KeyOffice, KeyOrder
from trivet.admin.office import Office
from trivet.admin.offices import Offices
from trivet.admin.overrides import OverrideOffice, OverrideOrder
from trivet.admin.rates import RateOffice

__all__ = [
    "AlertOffice",
    "AuditOffice",
    "BatchOffice",
    "CacheOffice",
    "KeyOffice",
    "KeyOrder",
    "Office",
    "Offices",
    "OverrideOffice",
    "OverrideOrder",
    "RateOffice",
]
