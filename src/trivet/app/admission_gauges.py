"""What the gates before the engines tell Prometheus."""

from trivet.execution.admission import Admission
from trivet.metering import TrivetCollector


def register_admission(collector: TrivetCollector, admission: Admission) -> None:
    """Register what the gates can tell at scrape time; a gate appears with its first request."""
    collector.register_snapshot(
        "trivet_admission_limit",
        "Requests that the deployment's engine is given at once, at most.",
        ("deployment",),
        lambda: [((gate.name,), float(gate.limit.value)) for gate in admission.gates()],
    )
    collector.register_snapshot(
        "trivet_admission_queued",
        "Requests that wait for their turn at the deployment's engine.",
        ("deployment", "priority"),
        lambda: [
            ((gate.name, priority), float(count))
            for gate in admission.gates()
            for priority, count in gate.queued_by_priority().items()
        ],
    )
    collector.register_snapshot(
        "trivet_admission_shed",
        "Requests refused since the start because they would have waited for too long.",
        ("deployment", "priority"),
        lambda: [
            ((gate.name, priority), float(count))
            for gate in admission.gates()
            for priority, count in gate.shed.items()
        ],
    )
