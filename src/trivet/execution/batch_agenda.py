"""In which order the lines of all batches are run, so that models which share memory change seldom.

Pure: it is told which lines there are, and gives out the next one. Models of one swap group have turns: while
one has its turn, no line of another is given out. A turn begins with the model that is in memory, and ends
when the lines are through that waited when it began: so a group changes at most once per model, and nobody
waits for ever. Lines of other deployments are free. Within a deployment the batches take turns, line by line.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SHORT_PAUSE_S = 10.0
"""A turn is not ended because its lines have to wait so long: a swap there and back takes longer."""

DueAt = Callable[[str, str], float]
"""Of a deployment and a batch: the instant, in seconds, before which none of its lines may be run there."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A line that is to be run now."""

    batch_id: str
    number: int
    deployment: str
    group: str | None
    """The swap group of the deployment."""


@dataclass(slots=True)
class _Queue:
    """The lines that wait for one deployment."""

    deployment: str
    group: str | None
    lines: OrderedDict[str, deque[int]] = field(default_factory=OrderedDict)
    since: int = 0
    """Counts up: who has waited longest has the least."""

    @property
    def length(self) -> int:
        return sum(len(numbers) for numbers in self.lines.values())


@dataclass(slots=True)
class _Turn:
    """A swap group: whose turn it is, and how many lines are left in it."""

    deployment: str | None = None
    left: int = 0
    running: int = 0


class Agenda:
    """The lines that wait. `next` gives one out; `ended` tells that it runs no more."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._turns: dict[str, _Turn] = {}
        self._count = 0
        self.look_again_s: float | None = None
        """After `next` gave None: when time alone may change that; None: only when something happens."""

    def add(self, batch_id: str, number: int, deployment: str, group: str | None) -> None:
        """Let a line wait for the deployment that was chosen for it."""
        queue = self._queues.get(deployment)
        if queue is None:
            self._count += 1
            queue = self._queues[deployment] = _Queue(deployment, group, since=self._count)
        queue.lines.setdefault(batch_id, deque()).append(number)
        if group is not None:
            self._turns.setdefault(group, _Turn())

    def drop(self, batch_id: str) -> None:
        """Forget the lines of a batch that wait."""
        for queue in list(self._queues.values()):
            queue.lines.pop(batch_id, None)
            self._tidy(queue)

    def waiting(self, batch_id: str | None = None) -> int:
        """Return how many lines wait, of a batch or of all."""
        if batch_id is None:
            return sum(queue.length for queue in self._queues.values())
        return sum(len(queue.lines.get(batch_id, ())) for queue in self._queues.values())

    def next(self, due_at_s: DueAt, resident: Mapping[str, str], now_s: float) -> Errand | None:
        """Give out a line that may run now.

        Args:
            due_at_s: when a deployment may take a line of a batch; infinite: not before something happens.
            resident: by swap group the member that is in memory.
            now_s: the present, on the same clock.
        """
        self.look_again_s = None
        for group in self._turns:
            self._begin_turn(group, due_at_s, resident, now_s)
        for queue in list(self._queues.values()):
            turn = self._turns[queue.group] if queue.group is not None else None
            if turn is not None and (turn.deployment != queue.deployment or turn.left <= 0):
                continue
            batch_id = self._first_due(queue, due_at_s, now_s)
            if batch_id is None:
                continue
            number = queue.lines[batch_id].popleft()
            # The next line comes from another batch, and the next but one from another deployment.
            queue.lines.move_to_end(batch_id)
            self._queues.move_to_end(queue.deployment)
            self._tidy(queue)
            if turn is not None:
                turn.left -= 1
                turn.running += 1
            return Errand(batch_id, number, queue.deployment, queue.group)
        return None

    def ended(self, errand: Errand) -> None:
        """Note that a line that was given out runs no more."""
        if errand.group is not None:
            self._turns[errand.group].running -= 1

    def _begin_turn(self, group: str, due_at_s: DueAt, resident: Mapping[str, str], now_s: float) -> None:
        """Let another member have its turn, if the present one is through and none of its lines runs."""
        turn = self._turns[group]
        present = self._queues.get(turn.deployment or "")
        if turn.running or (present is not None and turn.left > 0 and self._soon(present, due_at_s, now_s)):
            return
        members = [queue for queue in self._queues.values() if queue.group == group]
        ready = [queue for queue in members if self._first_due(queue, due_at_s, now_s) is not None]
        if not ready:
            turn.deployment, turn.left = None, 0
            return
        others = [queue for queue in ready if queue is not present] or ready
        first = next((queue for queue in others if queue.deployment == resident.get(group)), None)
        chosen = first or min(others, key=lambda queue: queue.since)
        self._count += 1
        chosen.since = self._count
        turn.deployment, turn.left = chosen.deployment, chosen.length

    def _soon(self, queue: _Queue, due_at_s: DueAt, now_s: float) -> bool:
        due_s = min((due_at_s(queue.deployment, batch_id) for batch_id in queue.lines), default=float("inf"))
        return due_s <= now_s + SHORT_PAUSE_S

    def _first_due(self, queue: _Queue, due_at_s: DueAt, now_s: float) -> str | None:
        for batch_id in queue.lines:
            due_s = due_at_s(queue.deployment, batch_id)
            if due_s <= now_s:
                return batch_id
            if due_s != float("inf"):
                self.look_again_s = min(due_s, self.look_again_s or due_s)
        return None

    def _tidy(self, queue: _Queue) -> None:
        """Forget what has no lines any more."""
        for batch_id in [batch_id for batch_id, numbers in queue.lines.items() if not numbers]:
            del queue.lines[batch_id]
        if not queue.lines:
            self._queues.pop(queue.deployment, None)
