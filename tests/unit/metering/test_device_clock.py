"""The device clock, by hand and against a simulation that does it the long way."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.metering.makers import deployment
from trivet.domain.clock import ManualClock
from trivet.domain.tiers import Deployment
from trivet.metering.device_clock import DeviceClock
from trivet.metering.interval_union import union_by_device

SECOND = 1_000_000_000


def test_a_lone_request_gets_all_of_its_device() -> None:
    """What one running request uses is the time from its start to its end."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    device_clock.start("a", deployment("light"))
    clock.advance(2)
    assert device_clock.end("a") == 2 * SECOND
    clock.advance(5)
    assert device_clock.busy_ns() == {"host": 2 * SECOND}


def test_requests_of_one_engine_share_evenly() -> None:
    """While two run each gets half of the time, and the last one alone gets all."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    engine = deployment("light", slots=2)
    device_clock.start("a", engine)
    clock.advance(1)
    device_clock.start("b", engine)
    clock.advance(2)
    assert device_clock.end("a") == 2 * SECOND
    clock.advance(1)
    assert device_clock.end("b") == 2 * SECOND
    assert device_clock.busy_ns() == {"host": 4 * SECOND}


def test_a_request_without_a_slot_gets_nothing_until_one_is_free() -> None:
    """Requests beyond the slots wait in order of dispatch; one that leaves while waiting used nothing."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    engine = deployment("light", slots=1)
    for name in ("a", "b", "c"):
        device_clock.start(name, engine)
    clock.advance(3)
    assert device_clock.end("b") == 0
    clock.advance(1)
    assert device_clock.in_flight("light") == 2
    assert device_clock.end("a") == 4 * SECOND
    clock.advance(2)
    assert device_clock.end("c") == 2 * SECOND


def test_engines_on_one_device_share_it_evenly_whatever_their_load() -> None:
    """An engine with one request gets as much as an engine with two."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    crowd, loner = deployment("crowd", slots=2), deployment("loner")
    device_clock.start("a", crowd)
    device_clock.start("b", crowd)
    device_clock.start("c", loner)
    clock.advance(4)
    assert [device_clock.end(name) for name in ("a", "b", "c")] == [SECOND, SECOND, 2 * SECOND]


def test_a_request_on_two_devices_draws_on_each() -> None:
    """A tensor-parallel engine's request gets its part of every device, and is charged their sum."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    device_clock.start("wide", deployment("wide", devices=("GPU-0", "GPU-1")))
    device_clock.start("narrow", deployment("narrow", devices=("GPU-1",)))
    clock.advance(2)
    assert device_clock.end("wide") == 3 * SECOND
    assert device_clock.end("narrow") == SECOND
    assert device_clock.busy_ns() == {"GPU-0": 2 * SECOND, "GPU-1": 2 * SECOND}


def test_a_remote_service_costs_nothing() -> None:
    """An attempt on a deployment without devices is counted in flight, and uses no device time."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    device_clock.start("a", deployment("cloud", devices=()))
    clock.advance(2)
    assert (device_clock.in_flight("cloud"), device_clock.in_flight()) == (1, 1)
    assert device_clock.end("a") == 0
    assert (device_clock.in_flight("cloud"), device_clock.busy_ns()) == (0, {})


def test_an_end_counts_once_and_an_unknown_attempt_not_at_all() -> None:
    """Ending twice, or ending what never started, gives zero."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    device_clock.start("a", deployment("light"))
    clock.advance(1)
    ends = [device_clock.end(name) for name in ("a", "a", "never")]
    assert ends == [SECOND, 0, 0]


def test_an_attempt_cannot_be_started_twice() -> None:
    """A second start of the same attempt is an error of the caller."""
    device_clock = DeviceClock(ManualClock())
    device_clock.start("a", deployment("light"))
    with pytest.raises(ValueError, match="started twice"):
        device_clock.start("a", deployment("light"))


def test_a_changed_deployment_takes_effect_once_its_engine_is_idle() -> None:
    """New slots and devices under an old name are used from the next start on an idle engine."""
    clock = ManualClock()
    device_clock = DeviceClock(clock)
    device_clock.start("a", deployment("light"))
    device_clock.start("b", deployment("light", devices=("GPU-0",), slots=2))
    clock.advance(1)
    assert [device_clock.end("a"), device_clock.end("b")] == [SECOND, 0]
    device_clock.start("c", deployment("light", devices=("GPU-0",), slots=2))
    clock.advance(1)
    assert device_clock.end("c") == SECOND
    assert device_clock.busy_ns() == {"host": SECOND, "GPU-0": SECOND}


def test_busy_time_is_split_at_wall_clock_minutes() -> None:
    """Each part is counted under the minute it fell into, and none while the device is idle."""
    clock = ManualClock(datetime(2026, 1, 1, 12, 0, 50, tzinfo=UTC))
    minute = int(clock.now().timestamp()) // 60
    device_clock = DeviceClock(clock)
    device_clock.start("a", deployment("light"))
    clock.advance(75)
    device_clock.advance()
    counted = {minute: 10 * SECOND, minute + 1: 60 * SECOND, minute + 2: 5 * SECOND}
    assert device_clock.minutes() == [("host", counted)]
    clock.advance(1)
    device_clock.end("a")
    clock.advance(1)
    device_clock.advance()
    assert device_clock.minutes() == [("host", {**counted, minute + 2: 6 * SECOND})]


ENGINES = (
    deployment("one", devices=("GPU-0",), slots=1),
    deployment("many", devices=("GPU-0",), slots=3),
    deployment("wide", devices=("GPU-0", "GPU-1"), slots=2),
    deployment("other", devices=("GPU-1",), slots=4),
    deployment("remote", devices=(), slots=2),
)
DEVICES = ("GPU-0", "GPU-1")


class LongWay:
    """The definition, literally: between events every running request is given its share, exactly."""

    def __init__(self) -> None:
        self.queues: dict[str, list[str]] = {engine.name: [] for engine in ENGINES}
        self.used: dict[str, Fraction] = {}
        self.busy = dict.fromkeys(DEVICES, 0)

    def pass_time(self, elapsed_ns: int) -> None:
        """Share out the time since the last event."""
        for device in DEVICES:
            running = [self.queues[e.name][: e.slots] for e in ENGINES if device in e.devices]
            active = [names for names in running if names]
            if active:
                self.busy[device] += elapsed_ns
            for names in active:
                for name in names:
                    self.used[name] += Fraction(elapsed_ns, len(active) * len(names))

    def start(self, name: str, engine: Deployment) -> None:
        """Queue a request."""
        self.queues[engine.name].append(name)
        self.used[name] = Fraction(0)

    def end(self, name: str) -> Fraction:
        """Take a request out, and say what it used."""
        for queue in self.queues.values():
            if name in queue:
                queue.remove(name)
        return self.used[name]


# (what happens, to which engine or open request, how long after the event before)
EVENTS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 99), st.integers(0, 90 * SECOND)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(events=EVENTS)
def test_shares_are_those_of_the_long_way_to_the_nanosecond(events: list[tuple[bool, int, int]]) -> None:
    """When all divisions come out even, attributed and busy time equal the simulation's exactly."""
    clock, simulation = ManualClock(), LongWay()
    device_clock = DeviceClock(clock)
    open_attempts: list[str] = []
    for number, (starts, which, gap) in enumerate(events):
        # At most 3 engines on a device and 4 requests on an engine: 12 * 12 divides by all of them.
        elapsed_ns = gap // 144 * 144
        clock.advance(elapsed_ns / 1e9)
        simulation.pass_time(elapsed_ns)
        if starts or not open_attempts:
            engine = ENGINES[which % len(ENGINES)]
            open_attempts.append(str(number))
            device_clock.start(str(number), engine)
            simulation.start(str(number), engine)
        else:
            name = open_attempts.pop(which % len(open_attempts))
            assert device_clock.end(name) == simulation.end(name)
    assert {**dict.fromkeys(DEVICES, 0), **device_clock.busy_ns()} == simulation.busy


@settings(deadline=None)
@given(events=EVENTS)
def test_time_is_conserved_at_every_moment(events: list[tuple[bool, int, int]]) -> None:
    """Told plus accrued is busy, busy is the interval union and never more than wall time, whatever happens.

    Single shares stray from the exact ones by less than a nanosecond for each event and device.
    """
    clock, simulation = ManualClock(), LongWay()
    device_clock = DeviceClock(clock)
    began: dict[str, tuple[tuple[str, ...], int]] = {}
    intervals = []
    told_ns = 0
    for number, (starts, which, elapsed_ns) in enumerate(events):
        clock.advance(elapsed_ns / 1e9)
        simulation.pass_time(elapsed_ns)
        now_ns = clock.monotonic_ns()
        if starts or not began:
            engine = ENGINES[which % len(ENGINES)]
            began[str(number)] = (engine.devices, now_ns)
            device_clock.start(str(number), engine)
            simulation.start(str(number), engine)
        else:
            name = list(began)[which % len(began)]
            intervals.append((*began.pop(name), now_ns))
            used_ns = device_clock.end(name)
            told_ns += used_ns
            assert abs(used_ns - simulation.end(name)) <= 2 * len(events)
        busy = device_clock.busy_ns()
        assert told_ns + device_clock.accrued_ns() == sum(busy.values())
        assert all(busy_ns <= now_ns for busy_ns in busy.values())
    end_ns = clock.monotonic_ns()
    intervals += [(devices, start_ns, end_ns) for devices, start_ns in began.values()]
    union = union_by_device(sorted(intervals, key=lambda i: i[1]), since_ns=0, until_ns=end_ns + 1)
    assert {name: busy_ns for name, busy_ns in device_clock.busy_ns().items() if busy_ns} == union
    device_clock.advance()
    counted = [sum(minutes.values()) for _, minutes in device_clock.minutes()]
    assert sum(counted) == sum(device_clock.busy_ns().values())
    for name in list(began):
        told_ns += device_clock.end(name)
    assert told_ns == sum(device_clock.busy_ns().values())
    assert device_clock.accrued_ns() == 0
