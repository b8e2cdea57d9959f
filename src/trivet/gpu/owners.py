"""Whose GPU memory is it: that of Trivet and its engines, or somebody else's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trivet.gpu.host import read_text

OLLAMA = "ollama"
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of include/linux/proc_ns.h: the namespace in which the driver's pids are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """The processes that count as Trivet's own, and whether their numbers are those that a driver tells."""

    pids: frozenset[int] = frozenset()
    comparable: bool = True
    """False in a container: the driver tells the host's numbers, or hides the processes."""

    def others_bytes(self, used_bytes: int | None, by_pid: Mapping[int, int | None] | None) -> int | None:
        """Return what processes of others use of a GPU.

        What no process is charged with (the driver's own, contexts) counts as others': it is not Trivet's to
        free.

        Args:
            used_bytes: of the whole GPU, by the driver.
            by_pid: memory by process, None for what is not told (WSL, WDDM); None without a list.

        Returns:
            None where an engine of Trivet's may be among the users and nobody can tell how much is its.
        """
        if used_bytes is None:
            return None
        if not self.pids:
            return used_bytes
        if by_pid is None or not self.comparable:
            return None
        own = [size for pid, size in by_pid.items() if pid in self.pids]
        if any(size is None for size in own):
            return None
        return max(used_bytes - sum(size for size in own if size is not None), 0)


def find_owners(trivets: Iterable[int], engines: Iterable[int] = (), root: Path = Path("/")) -> Owners:
    """Return the processes below each Trivet, each engine with those below it, and every Ollama.

    What Ollama holds, Trivet can unload; so it is not in a plan's way.
    """
    parents: dict[int, int] = {}
    heads = set(engines)
    for folder in (root / "proc").glob("[0-9]*"):
        # The name stands in parentheses and may hold anything, so what follows is found from the right.
        name, _, rest = (read_text(folder / "stat") or "").partition("(")[2].rpartition(")")
        words = rest.split()
        if len(words) > 1 and words[1].isdigit():
            parents[int(folder.name)] = int(words[1])
            if name == OLLAMA:
                heads.add(int(folder.name))
    pids = heads & parents.keys() | _descendants(heads | set(trivets), parents)
    return Owners(pids=frozenset(pids), comparable=_namespace(root) in (None, _FIRST_PID_NAMESPACE))


def _descendants(heads: set[int], parents: Mapping[int, int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(heads)
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _namespace(root: Path) -> str | None:
    try:
        return str((root / "proc/self/ns/pid").readlink())
    except OSError:
        return None
