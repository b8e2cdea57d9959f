"""Whose GPU memory is it: that of Trivet and its engines, or somebody else's."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from trivet.gpu.host import read_text

OLLAMA = "ollama"
ANCESTORS_MAX = 64
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of include/linux/proc_ns.h: the namespace in which the driver's pids are counted."""


class Owners:
    """Knows which processes count as Trivet's own: what runs below it, its engines, and every Ollama.

    What Ollama holds, Trivet can unload; so it is not in a plan's way. Only processes that a driver names are
    looked up, since a machine may have ten thousand others.
    """

    def __init__(
        self, trivets: Iterable[int] = (), engines: Iterable[int] = (), root: Path = Path("/")
    ) -> None:
        """Take processes of Trivet, those of engines that were adopted, and the tree with `proc`."""
        self._trivets = frozenset(trivets)
        self._engines = frozenset(engines)
        self._root = root

    def others_bytes(self, used_bytes: int | None, by_pid: Mapping[int, int | None] | None) -> int | None:
        """Return what processes of others use of a GPU.

        What no process is charged with (the driver's own, contexts) counts as others': Trivet cannot free it.

        Args:
            used_bytes: of the whole GPU, by the driver.
            by_pid: memory by process, None for what is not told (WSL, WDDM); None without a list.

        Returns:
            None where an engine of Trivet's may be among the users and nobody can tell how much is its.
        """
        if used_bytes is None:
            return None
        if by_pid is None or not self._pids_are_the_drivers():
            return None if self._has_engines() else used_bytes
        own = [size for pid, size in by_pid.items() if self._is_own(pid)]
        if any(size is None for size in own):
            return None
        return max(used_bytes - sum(size for size in own if size is not None), 0)

    def _is_own(self, pid: int) -> bool:
        for _ in range(ANCESTORS_MAX):
            name, parent = self._stat(pid)
            if pid in self._engines or name == OLLAMA or parent in self._trivets:
                return True
            if parent is None or parent <= 1:
                return False
            pid = parent
        return False

    def _has_engines(self) -> bool:
        """Tell whether anything runs that could be an engine of Trivet's."""
        proc = self._root / "proc"
        if any((proc / str(pid)).exists() for pid in self._engines):
            return True
        return any(
            read_text(children) for pid in self._trivets for children in proc.glob(f"{pid}/task/*/children")
        )

    def _stat(self, pid: int) -> tuple[str, int | None]:
        """Return a process's name and its parent; nothing for one that is gone."""
        # The name stands in parentheses and may hold anything, so what follows is found from the right.
        text = (read_text(self._root / "proc" / str(pid) / "stat") or "").partition("(")[2]
        name, _, rest = text.rpartition(")")
        words = rest.split()
        return name, int(words[1]) if len(words) > 1 and words[1].isdigit() else None

    def _pids_are_the_drivers(self) -> bool:
        """Tell whether this process counts processes as the driver does: not so in a container."""
        try:
            return str((self._root / "proc/self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
        except OSError:
            return True
