"""What was used: device time, usage records, savings, counters for Prometheus."""

from trivet.metering.counters import Metrics
from trivet.metering.device_clock import DeviceClock
from trivet.metering.prometheus import TrivetCollector
from trivet.metering.savings import SavingsReport
from trivet.metering.usage import UsageRecords

__all__ = ["DeviceClock", "Metrics", "SavingsReport", "TrivetCollector", "UsageRecords"]
