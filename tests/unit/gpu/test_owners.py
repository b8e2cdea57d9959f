"""Whose process is whose, from a tree of proc."""

import pytest

from tests.unit.gpu.conftest import Tree
from trivet.gpu.owners import Owners, find_owners


def process(pid: int, parent: int, name: str) -> dict[str, str]:
    """Return a process's file."""
    return {f"proc/{pid}/stat": f"{pid} ({name}) S {parent} {pid} 0 0 -1"}


PROCESSES = (
    process(1, 0, "systemd")
    | process(10, 1, "trivet")
    | process(11, 10, "vllm")
    | process(12, 11, "VLLM::EngineCor")
    | process(20, 1, "ollama")
    | process(21, 20, "ollama) S 1 (")
    | process(30, 1, "python")
    | process(40, 1, "llama-server")
    | {"proc/self/status": ""}
)


def test_what_runs_below_trivet_is_its_own(tree: Tree) -> None:
    """So is every Ollama with its runners, and an adopted engine; the rest is others'."""
    root = tree(PROCESSES)
    assert find_owners([10], root=root).pids == {11, 12, 20, 21}
    assert find_owners([999], [40], root).pids == {20, 21, 40}


@pytest.mark.parametrize(("namespace", "comparable"), [("4026531836", True), ("4026532999", False)])
def test_pids_in_a_container_are_not_the_drivers(tree: Tree, namespace: str, comparable: bool) -> None:
    """The driver counts in the first namespace."""
    root = tree({**PROCESSES, "proc/self/ns/pid": f"->pid:[{namespace}]"})
    assert find_owners([10], root=root).comparable is comparable


@pytest.mark.parametrize(
    ("owners", "by_pid", "expected"),
    [
        (Owners(), {7: 60}, 100),
        (Owners(), None, 100),
        (Owners(pids=frozenset({7})), {7: 60, 8: None}, 40),
        (Owners(pids=frozenset({7})), {8: 60}, 100),
        (Owners(pids=frozenset({7})), {7: 120}, 0),
        (Owners(pids=frozenset({7})), {7: None}, None),
        (Owners(pids=frozenset({7})), None, None),
        (Owners(pids=frozenset({7}), comparable=False), {8: 60}, None),
    ],
)
def test_the_others_share(owners: Owners, by_pid: dict[int, int | None] | None, expected: int | None) -> None:
    """Used less one's own; unknown where one's own cannot be told."""
    assert owners.others_bytes(100, by_pid) == expected
    assert owners.others_bytes(None, by_pid) is None
