"""`trivet gpus`"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from trivet.cli.exits import FAILED
from trivet.cli.output import print_json, print_table, say
from trivet.cli.own_machine import look
from trivet.cli.session import ConfigOption, JsonOption
from trivet.domain.gpus import GIB, Gpu, GpuState, Host, Inventory, InventoryState

BAR_CHARS = 12
_CLEAR = "\x1b[H\x1b[2J"
_FULL, _EMPTY = "█", "░"
_QUIET = frozenset({InventoryState.OK, InventoryState.NO_GPU})
"""States that are no fault: a machine may well have no GPU."""


def gpus(
    config: ConfigOption = None,
    watch_s: Annotated[
        float | None,
        typer.Option(
            "--watch", min=0.1, help="Look again after so many seconds, until Ctrl-C.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the GPUs of this machine, what uses their memory, how they are linked, and what is wrong.

    CUDA_VISIBLE_DEVICES is honoured. What engines of a running Trivet, and Ollama, hold of a GPU does not
    count as others' memory. Exits with 1 when there are GPUs and none of them can be used.

    Examples:
      trivet gpus
      trivet gpus --watch 2
      CUDA_VISIBLE_DEVICES=0,1 trivet gpus --json
    """
    while watch_s is not None:
        inventory = look(config)
        if as_json:
            sys.stdout.write(json.dumps(inventory.as_json()) + "\n")  # one object a line, for programs
        else:
            sys.stdout.write(_CLEAR if sys.stdout.isatty() else "")
            _print(inventory)
        sys.stdout.flush()
        time.sleep(watch_s)
    inventory = look(config)
    if as_json:
        print_json(inventory.as_json())
    else:
        _print(inventory)
    if inventory.state not in _QUIET:
        raise typer.Exit(FAILED)


def inventory_note(inventory: Inventory) -> str:
    """Return the machine in one line: memory, cores, platform, driver."""
    driver = f", driver {inventory.driver_version}" if inventory.driver_version else ""
    return f"{_host_note(inventory.host)}{driver}"


def memory_bar(used_bytes: int, total_bytes: int, *, others_bytes: int = 0) -> str:
    """Draw how full a memory is; plain characters where the terminal has no others."""
    blocks = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    full, empty = (_FULL, _EMPTY) if blocks else ("#", ".")
    share = min(max(used_bytes, others_bytes, 0) / total_bytes, 1.0) if total_bytes else 0.0
    # Any use at all shows, and only a full memory looks full.
    chars = min(max(round(share * BAR_CHARS), share > 0), BAR_CHARS - (share < 1.0))
    return full * chars + empty * (BAR_CHARS - chars)


def _print(inventory: Inventory) -> None:
    if inventory.gpus:
        columns = ("gpu", "name", "uuid", "memory", "GiB used", "others", "cc", "power", "links", "state")
        print_table(columns, [_row(index, gpu, inventory.gpus) for index, gpu in enumerate(inventory.gpus)])
        sys.stdout.write("\n")
    sys.stdout.write(f"Host: {inventory_note(inventory)}\n")
    for line in _remarks(inventory):
        say(line)


def _row(index: int, gpu: Gpu, gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    total, used = gpu.total_bytes, gpu.used_bytes
    known = total is not None and used is not None
    return (
        str(index),
        gpu.name,
        gpu.uuid if len(gpu.uuid) <= 16 else f"{gpu.uuid[:12]}…",
        memory_bar(used or 0, total or 0) if known else "-",
        f"{(used or 0) / GIB:.1f} / {(total or 0) / GIB:.1f}" if known else "-",
        "-" if gpu.others_bytes is None else f"{gpu.others_bytes / GIB:.1f}",
        ".".join(map(str, gpu.compute_capability)) if gpu.compute_capability else "-",
        "-" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
        _links(gpu, gpus),
        gpu.state if gpu.state is not GpuState.OK or not gpu.unified else "ok, unified",
    )


def _links(gpu: Gpu, gpus: tuple[Gpu, ...]) -> str:
    """Return the positions that the GPU reaches: over NVLink, then by P2P over PCIe."""
    parts = []
    for kind, peers in (("NVLink", gpu.nvlink_peers), ("P2P", gpu.peers - gpu.nvlink_peers)):
        found = [str(index) for index, other in enumerate(gpus) if other.uuid in peers]
        if found:
            parts.append(f"{kind} {'all' if len(found) == len(gpus) - 1 > 1 else ','.join(found)}")
    if not parts and gpu.mig_parent:
        return "MIG"
    return " ".join(parts) or "-"


def _host_note(host: Host) -> str:
    available, total = host.ram_available_bytes / GIB, host.ram_total_bytes / GIB
    cores = "1 core" if host.cpu_cores == 1 else f"{host.cpu_cores} cores"
    return f"{available:.1f} of {total:.1f} GiB RAM available, {cores}, {host.platform}"


def _remarks(inventory: Inventory) -> Iterator[str]:
    if inventory.reason:
        yield f"{'note' if inventory.state in _QUIET else inventory.state}: {inventory.reason}"
    for index, gpu in enumerate(inventory.gpus):
        if gpu.reason and gpu.reason != inventory.reason:
            yield f"gpu {index}: {gpu.reason}"
