"""The device clock: who used how much of each device, so that the parts add up to the whole.

Over dt, a device shares dt evenly among the engines on it that have running work, and an engine shares
what it gets from its devices evenly among its running requests. Requests beyond an engine's slots wait
in order of dispatch and get nothing. This is generalised processor sharing, and it is kept, as there,
by virtual time: a device counts what *one* of its running engines has got so far, an engine counts what
*one* of its running requests has got so far, and a request remembers where its engine's count stood when
it began to run. An event touches its own engine and that engine's devices only, never other requests.

Everything is whole nanoseconds. A division's remainder is carried to the next division of the same
device or engine, and the last request to leave divides by one: so once a set of engines is idle, what
its requests were given is exactly what its devices were busy, and at any other moment the two differ
by exactly `accrued_ns()`.
"""

from collections import OrderedDict

from trivet.domain.clock import Clock
from trivet.domain.tiers import Deployment
from trivet.metering.wall_anchor import WallAnchor

MINUTE_NS = 60_000_000_000


class _Device:
    """One card, or the host: busy while at least one engine on it has running work."""

    __slots__ = (
        "_anchor",
        "_minute",
        "_minute_ends_ns",
        "at_ns",
        "busy_ns",
        "carry_ns",
        "engines",
        "minutes",
        "share_ns",
    )

    def __init__(self, at_ns: int, anchor: WallAnchor) -> None:
        self.at_ns = at_ns
        """The instant up to which time has been shared out."""
        self.engines = 0
        """Engines here that have running work."""
        self.share_ns = 0
        """Virtual time: what an engine running here since the beginning would have got."""
        self.carry_ns = 0
        """What did not divide evenly; less than `engines`."""
        self.busy_ns = 0
        self.minutes: dict[int, int] = {}
        """Busy nanoseconds by minute since 1970; only the last, which is under way, still changes."""
        self._anchor = anchor
        # The minute under way, and its end on the monotonic clock.
        self._minute = -1
        self._minute_ends_ns = at_ns

    def advance(self, now_ns: int) -> None:
        engines = self.engines
        if engines:
            # Also when no time has passed: the last engine takes what the others' leaving left over.
            elapsed_ns = now_ns - self.at_ns
            shared_ns = elapsed_ns + self.carry_ns
            share_ns = shared_ns // engines
            self.carry_ns = shared_ns - share_ns * engines
            self.share_ns += share_ns
            if elapsed_ns:
                self.busy_ns += elapsed_ns
                if now_ns <= self._minute_ends_ns:
                    self.minutes[self._minute] += elapsed_ns
                else:
                    self._book(now_ns)
        self.at_ns = now_ns

    def _book(self, now_ns: int) -> None:
        """Book the time until now under its minutes, the last of which is under way from now on."""
        offset_ns, start_ns = self._anchor.offset_ns, self.at_ns
        while start_ns < now_ns:
            minute = (start_ns + offset_ns) // MINUTE_NS
            if minute != self._minute:
                self._minute, self.minutes[minute] = minute, 0
                self._minute_ends_ns = (minute + 1) * MINUTE_NS - offset_ns
            stop_ns = min(now_ns, self._minute_ends_ns)
            self.minutes[minute] += stop_ns - start_ns
            start_ns = stop_ns


class _Engine:
    """One deployment: its running requests share what its devices give it."""

    __slots__ = ("carry_ns", "deployment", "devices", "marks_ns", "running", "share_ns", "slots", "waiting")

    def __init__(self, deployment: Deployment, devices: tuple[_Device, ...]) -> None:
        self.deployment = deployment
        self.slots = max(1, deployment.slots)
        self.devices = devices
        self.marks_ns = [device.share_ns for device in devices]
        """Each device's virtual time up to which this engine has taken its part."""
        self.share_ns = 0
        """Virtual time: what a request running here since the beginning would have got."""
        self.carry_ns = 0
        self.running: dict[str, int] = {}
        """Attempt to the virtual time at which it began to run."""
        self.waiting: OrderedDict[str, None] = OrderedDict()

    def advance(self, now_ns: int) -> None:
        gained_ns, marks_ns = self.carry_ns, self.marks_ns
        for index, device in enumerate(self.devices):
            device.advance(now_ns)
            gained_ns += device.share_ns - marks_ns[index]
            marks_ns[index] = device.share_ns
        # While idle, the devices' virtual time belongs to the other engines: only the marks move.
        running = len(self.running)
        if running:
            share_ns = gained_ns // running
            self.carry_ns = gained_ns - share_ns * running
            self.share_ns += share_ns

    def enter(self, attempt_id: str) -> None:
        if len(self.running) >= self.slots:
            self.waiting[attempt_id] = None
            return
        if not self.running:
            for device in self.devices:
                device.engines += 1
        self.running[attempt_id] = self.share_ns

    def leave(self, attempt_id: str) -> int:
        if attempt_id in self.waiting:
            del self.waiting[attempt_id]
            return 0
        used_ns = self.share_ns - self.running.pop(attempt_id)
        if self.waiting:
            first, _ = self.waiting.popitem(last=False)
            self.running[first] = self.share_ns
        elif not self.running:
            for device in self.devices:
                device.engines -= 1
        return used_ns


class DeviceClock:
    """Attributes device time to attempts. But for `minutes`, for the event loop's thread; no call waits."""

    def __init__(self, clock: Clock) -> None:
        """Take the time source; `anchor` says how its monotonic instants are recorded as wall time."""
        self.anchor = WallAnchor.taken(clock)
        self.version = 0
        """Changes whenever time was counted on all devices."""
        self._clock = clock
        self._devices: dict[str, _Device] = {}
        self._engines: dict[str, _Engine] = {}
        self._attempts: dict[str, _Engine] = {}

    def start(self, attempt_id: str, deployment: Deployment) -> None:
        """Note that an attempt was dispatched; it runs at once, or waits until a slot is free.

        A deployment whose devices or slots were changed takes effect when its engine is next idle.

        Raises:
            ValueError: this attempt is already under way.
        """
        if attempt_id in self._attempts:
            raise ValueError(f"attempt {attempt_id} was started twice")
        now_ns = self._clock.monotonic_ns()
        engine = self._engines.get(deployment.name)
        if engine is None or engine.deployment is not deployment:
            engine = self._engine_of(deployment, now_ns)
        engine.advance(now_ns)
        engine.enter(attempt_id)
        self._attempts[attempt_id] = engine

    def end(self, attempt_id: str) -> int:
        """Return the device nanoseconds attributed to the attempt, summed over its devices.

        Zero for an attempt that is unknown or has ended before, never got a slot, or ran on no device.
        """
        engine = self._attempts.pop(attempt_id, None)
        if engine is None:
            return 0
        engine.advance(self._clock.monotonic_ns())
        return engine.leave(attempt_id)

    def in_flight(self, deployment_name: str | None = None) -> int:
        """Return how many attempts are under way, waiting ones included; all of them by default."""
        if deployment_name is None:
            return len(self._attempts)
        engine = self._engines.get(deployment_name)
        return len(engine.running) + len(engine.waiting) if engine else 0

    def busy_ns(self) -> dict[str, int]:
        """Return how long each device has been busy since the start, in nanoseconds."""
        self.advance()
        return {name: device.busy_ns for name, device in self._devices.items()}

    def accrued_ns(self) -> int:
        """Return the device nanoseconds that attempts under way have used but not yet been told.

        What ended attempts were told, plus this, is the sum of `busy_ns()`, to the nanosecond.
        """
        now_ns = self._clock.monotonic_ns()
        accrued_ns = 0
        for engine in self._engines.values():
            engine.advance(now_ns)
            accrued_ns += engine.carry_ns + sum(
                engine.share_ns - began_ns for began_ns in engine.running.values()
            )
        return accrued_ns + sum(device.carry_ns for device in self._devices.values())

    def advance(self) -> None:
        """Count the time until now as busy, where devices are."""
        now_ns = self._clock.monotonic_ns()
        for device in self._devices.values():
            device.advance(now_ns)
        self.version += 1

    def minutes(self) -> list[tuple[str, dict[int, int]]]:
        """Return each device's busy nanoseconds by minute since 1970 in UTC, as far as they were counted.

        From any thread. They are the clock's own books: whoever has booked a minute that is over elsewhere
        takes it out; the last one is under way.
        """
        return [(name, device.minutes) for name, device in tuple(self._devices.items())]

    def _engine_of(self, deployment: Deployment, now_ns: int) -> _Engine:
        engine = self._engines.get(deployment.name)
        if engine is None or (not engine.running and engine.deployment != deployment):
            # A TP engine draws on each device once, however its configuration spells the list.
            names = dict.fromkeys(deployment.devices)
            devices = tuple(self._devices.setdefault(name, _Device(now_ns, self.anchor)) for name in names)
            engine = self._engines[deployment.name] = _Engine(deployment, devices)
        return engine
