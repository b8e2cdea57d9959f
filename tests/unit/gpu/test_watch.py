"""The last reading at once, a new one in the background."""

import threading

from trivet.domain.clock import ManualClock
from trivet.domain.gpus import Host, Inventory
from trivet.gpu import GpuWatch

FIRST, SECOND = (
    Inventory(host=Host(ram_total_bytes=total, ram_available_bytes=1, cpu_cores=1)) for total in (1, 2)
)


def test_an_old_reading_is_renewed_behind_the_askers_back() -> None:
    """Whoever asks late gets the old one, the next one the new one."""
    clock = ManualClock()
    watch = GpuWatch(FIRST, clock, read=lambda: SECOND)
    clock.advance(4.9)
    assert watch.inventory() is FIRST
    watch.settle(5)
    assert watch.inventory() is FIRST
    clock.advance(0.1)
    assert watch.inventory() is FIRST
    watch.settle(5)
    assert watch.inventory() is SECOND


def test_a_driver_that_hangs_holds_one_thread() -> None:
    """While a reading is under way no other is begun, and asking goes on."""
    release, begun = threading.Event(), []

    def read() -> Inventory:
        begun.append(1)
        release.wait(30)
        return SECOND

    clock = ManualClock()
    watch = GpuWatch(FIRST, clock, read=read)
    for _ in range(3):
        clock.advance(10)
        assert watch.inventory() is FIRST
    release.set()
    watch.settle(5)
    assert (watch.inventory(), len(begun)) == (SECOND, 1)
