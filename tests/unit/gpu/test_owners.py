"""Whose process is whose, from a tree of proc."""

from collections.abc import Iterable

import pytest

from tests.unit.gpu.conftest import Tree
from trivet.gpu.owners import Owners


def process(pid: int, parent: int, name: str, children: str = "") -> dict[str, str]:
    """Return a process's files."""
    return {
        f"proc/{pid}/stat": f"{pid} ({name}) S {parent} {pid} 0 0 -1",
        f"proc/{pid}/task/{pid}/children": children,
    }


PROCESSES = (
    process(1, 0, "systemd", "10 20 30 40")
    | process(10, 1, "trivet", "11 ")
    | process(11, 10, "python guardian", "12 ")
    | process(12, 11, "VLLM::EngineCor")
    | process(20, 1, "ollama", "21 ")
    | process(21, 20, "llama-server) S 1 (")
    | process(30, 1, "python")
    | process(40, 1, "llama-server")
)
IN_FIRST = {"proc/self/ns/pid": "->pid:[4026531836]"}
IN_CONTAINER = {"proc/self/ns/pid": "->pid:[4026532999]"}


@pytest.mark.parametrize(
    ("trivets", "engines", "own"),
    [
        ([10], [], {11, 12, 20, 21}),
        ([999], [40], {20, 21, 40}),
        ([], [], {20, 21}),
        ([], [11], {11, 12, 20, 21}),
    ],
)
def test_what_runs_below_trivet_is_its_own(
    tree: Tree, trivets: Iterable[int], engines: Iterable[int], own: set[int]
) -> None:
    """So is every Ollama with its runners, and an adopted engine; the rest is others'."""
    owners = Owners(trivets, engines, tree({**PROCESSES, **IN_FIRST}))
    for pid in (1, 11, 12, 20, 21, 30, 40, 77):
        assert owners.others_bytes(100, {pid: 60}) == (40 if pid in own else 100), pid


@pytest.mark.parametrize(
    ("by_pid", "expected"),
    [
        ({12: 60, 30: None}, 40),
        ({12: 60, 21: 30, 30: 10}, 10),
        ({12: 120}, 0),
        ({12: None}, None),
        ({}, 100),
        (None, None),
    ],
)
def test_the_others_share(tree: Tree, by_pid: dict[int, int | None] | None, expected: int | None) -> None:
    """Used less one's own; unknown where one's own cannot be told."""
    owners = Owners([10], root=tree({**PROCESSES, **IN_FIRST}))
    assert owners.others_bytes(100, by_pid) == expected
    assert owners.others_bytes(None, by_pid) is None


@pytest.mark.parametrize(
    ("trivets", "engines", "expected"),
    [([10], [], None), ([30], [], 100), ([30], [40], None), ([30], [77], 100)],
)
def test_in_a_container_nobody_can_tell(
    tree: Tree, trivets: list[int], engines: list[int], expected: int | None
) -> None:
    """The driver counts in the first namespace; an engine's share is not known there."""
    owners = Owners(trivets, engines, tree({**PROCESSES, **IN_CONTAINER}))
    assert owners.others_bytes(100, {12: 60}) == expected
    assert owners.others_bytes(100, None) == expected
