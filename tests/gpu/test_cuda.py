"""What discovery says, against what CUDA does: whose memory it is, how much there is, which GPU a name means.

Run with `scripts/test --gpu`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivet.catalog.gpu_table import load_gpu_table
from trivet.domain.gpus import GIB, MIB, Gpu, Inventory, visibility
from trivet.gpu import discover

pytestmark = pytest.mark.gpu

HELD_BYTES = 2 * GIB
CONTEXT_MAX_BYTES = GIB
"""No context of a program without libraries is as large; it is charged to its process, as its memory is."""
HOLDER = [sys.executable, "-m", "tests.doubles.cuda_holder"]
# What runs here stays below this process; what an interpreter starts that then ends goes to init.
ORPHANING = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"
WITHOUT_LIMITS = {name: text for name, text in os.environ.items() if "VISIBLE_DEVICES" not in name}


@contextlib.contextmanager
def holder(
    uuid: str, *arguments: str, before: tuple[str, ...] = (), **environment: str
) -> Iterator[dict[str, Any]]:
    """Run a program that holds memory of one GPU; give what it told once it does."""
    only = {name: text for name, text in visibility((uuid,)).items() if text is not None}
    process = subprocess.Popen(
        [*before, *HOLDER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=WITHOUT_LIMITS | only | environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the holder ended: see its error above"
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.stdout.read()  # to its end: an orphan is no child that could be waited for
        process.wait()
        process.stdout.close()


def look() -> Inventory:
    """Return the machine as it is now, every GPU of it."""
    return discover(environment=WITHOUT_LIMITS)


def first(inventory: Inventory) -> Gpu:
    """Return the first GPU that can be used."""
    return next(gpu for gpu in inventory.gpus if gpu.plannable and not gpu.unified)


def counts_as_the_driver() -> bool:
    """Tell whether this is no container: whose memory it is can be told only there."""
    return str(Path("/proc/self/ns/pid").readlink()) == "pid:[4026531836]"


def test_memory_of_what_runs_below_is_own() -> None:
    """What an engine of Trivet's takes, with its context, is in `used` and not in `others`."""
    before = first(look())
    with holder(before.uuid, "--hold-bytes", str(HELD_BYTES)):
        during = first(look())
    assert before.used_bytes is not None
    assert during.used_bytes is not None
    grown = during.used_bytes - before.used_bytes
    assert HELD_BYTES <= grown <= HELD_BYTES + CONTEXT_MAX_BYTES
    if counts_as_the_driver():
        assert before.others_bytes is not None
        assert during.others_bytes is not None
        assert during.others_bytes - before.others_bytes < grown - HELD_BYTES + MIB
    else:
        assert during.others_bytes is None


def test_memory_of_strangers_is_others() -> None:
    """What a program that Trivet did not start takes is not there for its engines."""
    before = first(look())
    orphaning = (sys.executable, "-c", ORPHANING)
    with holder(before.uuid, "--hold-bytes", str(HELD_BYTES), before=orphaning):
        during = first(look())
    assert before.others_bytes is not None
    assert during.others_bytes is not None
    assert during.others_bytes - before.others_bytes >= HELD_BYTES


def test_an_end_gives_the_memory_back() -> None:
    """A reading after the end of a program shows what it had as free again."""
    before = first(look())
    with holder(before.uuid, "--hold-bytes", str(HELD_BYTES)):
        pass
    after = first(look())
    assert before.free_bytes is not None
    assert after.free_bytes is not None
    assert after.free_bytes >= before.free_bytes - HELD_BYTES // 8


def test_cuda_sees_the_gpu_that_is_named() -> None:
    """The variables that an engine gets show it that GPU and no other."""
    for gpu in look().gpus:
        if gpu.plannable and gpu.mig_parent is None:
            with holder(gpu.uuid) as told:
                assert told["uuids"] == [gpu.uuid]


def test_the_table_knows_what_cuda_can_give() -> None:
    """A plan's memory is what CUDA counts, not what is printed on the card; never more."""
    table = load_gpu_table()
    for gpu in look().gpus:
        if not gpu.plannable or gpu.unified or gpu.total_bytes is None:
            continue
        spec = table.for_driver_name(gpu.name, gpu.total_bytes)
        with holder(gpu.uuid) as told:
            assert spec.usable_bytes <= told["total_bytes"] + 64 * MIB
            if spec.known and not spec.estimated:
                assert spec.usable_bytes == pytest.approx(told["total_bytes"], rel=0.005)


def test_work_shows_in_energy_and_power() -> None:
    """A second of writing to memory costs energy, and more power than a card draws when it does nothing."""
    before = first(look())
    if before.energy_mj is None or before.power_w is None:
        pytest.skip("this GPU tells neither power nor energy")
    began = time.monotonic()
    with holder(before.uuid, "--busy-s", "1.5"):
        during = first(look())
    elapsed_s = time.monotonic() - began
    assert during.energy_mj is not None
    assert during.power_w is not None
    mean_w = (during.energy_mj - before.energy_mj) / 1000 / elapsed_s
    assert 5 < mean_w < 2000
    assert during.power_w > 5
