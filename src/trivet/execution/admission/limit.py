"""How many requests an engine gets at once: additive increase, multiplicative decrease. Pure.

The signal is the time to the first token of streams: an engine that is given more than it can run lets them
wait in its own queue, where no priority reaches them. It is compared with the time that prompts of like size
take while the engine has little to do. While the mean of that ratio stays near 1 and the limit is in use,
the limit grows by one a round (`limit` answers); beyond the tolerance it shrinks by a fifth, at most once a
round. An engine that refuses (503, 429) or stays silent is taken as one that is given too much.

Nearly idle is at most an eighth of the seed. So a limit that shrank for another reason than load finds the
slower answers to be the engine's ordinary ones, and grows again.
"""

DECREASE = 0.8
SLACK_NS = 50_000_000
"""So much more than the ordinary is never taken for load: engines and networks are not that regular."""
IN_USE = 0.9
MEAN_OF = 10
SAMPLES_MIN = 3
SAMPLES_MAX = 16


class InFlightLimit:
    """The limit of one engine. Instants are monotonic nanoseconds."""

    def __init__(self, *, seed: int, ceiling: int, tolerance: float) -> None:
        """Begin at the seed.

        Args:
            seed: requests that the engine runs at once, as far as is known; at least 1.
            ceiling: the most that the limit may become; at least the seed.
            tolerance: how many times its ordinary value the time to first token may be.
        """
        self._value = float(seed)
        self.value = seed
        """How many requests may run at once; at least 1."""
        self._ceiling = max(1, ceiling)
        self._idle_max = max(1, seed // 8)
        self._tolerance = tolerance
        self._ordinary_ns: dict[int, float] = {}
        """By the binary logarithm of the prompt's size."""
        self._strain = 1.0
        self._samples = 0
        self._changed_ns = -1
        self.decreases = 0

    @property
    def strain(self) -> float:
        """Return the mean ratio of the time to first token to the ordinary one since the last decrease."""
        return self._strain

    def answered(
        self, *, dispatched_ns: int, first_token_ns: int, prompt_bytes: int, in_flight: int, in_use: bool
    ) -> None:
        """Learn from a stream's first token.

        Args:
            dispatched_ns: when it was sent.
            first_token_ns: when its first content came.
            prompt_bytes: size of its prompt.
            in_flight: requests under way when it was let through, itself included.
            in_use: others waited, or nearly the whole limit was taken.
        """
        took_ns = max(0, first_token_ns - dispatched_ns)
        ordinary_ns = self._ordinary(prompt_bytes.bit_length(), took_ns, idle=in_flight <= self._idle_max)
        if dispatched_ns <= self._changed_ns:
            return  # it suffered under the limit of before
        self._samples += 1
        ratio = took_ns / (ordinary_ns + SLACK_NS)
        self._strain += (ratio - self._strain) / min(self._samples, MEAN_OF)
        if self._strain > self._tolerance:
            if self._samples >= min(SAMPLES_MAX, max(SAMPLES_MIN, self._value / 2)):
                self._decrease(first_token_ns)
        elif in_use and self._strain <= (1.0 + self._tolerance) / 2:
            self._increase()

    def served(self, *, in_use: bool) -> None:
        """Learn from a plain answer: only that the engine took it."""
        if in_use and self._strain <= (1.0 + self._tolerance) / 2:
            self._increase()

    def refused(self, *, dispatched_ns: int, now_ns: int) -> None:
        """Learn that the engine had no room for a request, or was silent for too long."""
        if dispatched_ns > self._changed_ns:
            self._decrease(now_ns)

    def _ordinary(self, size: int, took_ns: int, *, idle: bool) -> float:
        """Return what is ordinary for a size of prompt, after this sample."""
        known_ns = self._ordinary_ns.get(size)
        if known_ns is None:
            # Perhaps under load; shorter times will show it.
            known_ns = float(took_ns)
        elif took_ns < known_ns:
            known_ns += 0.2 * (took_ns - known_ns)
        elif idle:
            known_ns += 0.1 * (took_ns - known_ns)
        self._ordinary_ns[size] = known_ns
        return known_ns

    def _increase(self) -> None:
        self._value = min(self._ceiling, self._value + 1.0 / self._value)
        self.value = int(self._value)

    def _decrease(self, now_ns: int) -> None:
        self._value = max(1.0, self._value * DECREASE)
        self.value = int(self._value)
        self._changed_ns = now_ns
        self._strain, self._samples = 1.0, 0
        self.decreases += 1
