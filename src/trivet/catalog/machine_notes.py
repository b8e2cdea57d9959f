"""What a planner's user should know of the machine beside the plan. Pure."""

from collections.abc import Iterator

from trivet.catalog.machine import Machine
from trivet.domain.gpus import GIB, MIB, Gpu, Inventory

OTHERS_SHOWN_BYTES = 512 * MIB


def machine_notes(inventory: Inventory, machine: Machine) -> Iterator[str]:
    """Say which GPUs are left out for the CPU, and whose memory could not be planned with.

    Args:
        inventory: the machine, measured or described.
        machine: what the plan was made for: its GPUs, or the host alone.
    """
    usable = [gpu for gpu in inventory.gpus if gpu.plannable]
    if machine.on_cpu:
        yield from (
            f"{gpu.name} is left out: {_room(gpu)} is too little for a plan that beats the CPU's."
            for gpu in usable
        )
        return
    for gpu in usable:
        if gpu.unified or not inventory.measured:
            continue
        if gpu.others_bytes is None and (gpu.used_bytes or 0) > OTHERS_SHOWN_BYTES:
            yield (
                f"{gpu.name}: {_gib(gpu.used_bytes)} GiB are in use and nobody can tell by whom; they count "
                "as taken. Plan while no engine runs, or for a described machine (--gpus)."
            )
        elif (gpu.others_bytes or 0) > OTHERS_SHOWN_BYTES:
            yield f"{gpu.name}: {_gib(gpu.others_bytes)} GiB are used by other programs and stay theirs."


def _room(gpu: Gpu) -> str:
    taken = gpu.others_bytes if gpu.others_bytes is not None else gpu.used_bytes
    return f"{_gib(gpu.total_bytes)} GiB, of which others use {_gib(taken)},"


def _gib(size_bytes: int | None) -> str:
    return f"{(size_bytes or 0) / GIB:.1f}"
