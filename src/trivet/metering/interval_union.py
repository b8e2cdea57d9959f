"""How long each device was busy, from recorded instants alone: the check on the device clock.

Nothing here is shared with the clock: a device was busy whenever at least one attempt on it was between
its dispatch and its end. Attempts that waited for a slot change nothing, since others ran meanwhile.
"""

from collections.abc import Iterable


def union_by_device(
    intervals: Iterable[tuple[tuple[str, ...], int, int]], *, since_ns: int, until_ns: int
) -> dict[str, int]:
    """Return the nanoseconds of [since_ns, until_ns) that each device's intervals cover.

    Args:
        intervals: (devices, start, end) in order of start; instants in nanoseconds of one time scale.
        since_ns: what lies before is cut off.
        until_ns: what lies after is cut off.
    """
    covered_ns: dict[str, int] = {}
    covered_to_ns: dict[str, int] = {}
    for devices, start_ns, end_ns in intervals:
        start, end = max(start_ns, since_ns), min(end_ns, until_ns)
        for device in devices:
            fresh_from = max(start, covered_to_ns.get(device, since_ns))
            if end > fresh_from:
                covered_ns[device] = covered_ns.get(device, 0) + end - fresh_from
                covered_to_ns[device] = end
    return covered_ns
