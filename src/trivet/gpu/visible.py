"""CUDA_VISIBLE_DEVICES and its ROCm cousins, read as the drivers read them. Pure.

Sources: CUDA Programming Guide, "CUDA Environment Variables" (indices as nvidia-smi counts, UUIDs and
unambiguous beginnings of them, MIG's old and new names, the first invalid entry ends the list, empty hides
all); what it leaves open (strtoul's leniency, a repeated entry hides all) is as PyTorch's `torch.cuda`
reimplements it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trivet.domain.gpus import Gpu

CUDA_VARIABLES = (("CUDA_VISIBLE_DEVICES",),)
ROCM_VARIABLES = (("ROCR_VISIBLE_DEVICES",), ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"))
"""One layer after the other; in a layer the first variable that is set. HIP counts what ROCR let through."""

_ORDINAL = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A GPU or MIG instance as the driver lists it."""

    gpu: Gpu
    index: int
    """Of the physical GPU, in the driver's order; the instances of one GPU share it."""
    other_names: tuple[str, ...] = ()
    """Further names of a MIG instance: `MIG-GPU-<uuid>/<GPU instance>/<compute instance>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the variables let through, in the driver's order, and what an operator should know about it."""

    listed: tuple[Listed, ...]
    remark: str = ""


def let_through(
    environment: Mapping[str, str], listed: Sequence[Listed], layers: Sequence[Sequence[str]] = CUDA_VARIABLES
) -> Selection:
    """Apply the variables of each layer that are set; without any everything is visible."""
    current, remarks = tuple(listed), []
    for names in layers:
        name = next((name for name in names if name in environment), None)
        if name is None:
            continue
        current, remark = _applied(environment[name], current, name)
        remarks += [remark] if remark else []
    return Selection(listed=current, remark=" ".join(remarks))


def _applied(text: str, listed: tuple[Listed, ...], variable: str) -> tuple[tuple[Listed, ...], str]:
    if not text.strip():
        return (), f"{variable} is empty, which hides every GPU: unset it."
    chosen: list[frozenset[str]] = []
    for entry in (part.strip() for part in text.split(",")):
        found = _named(entry, listed)
        if not found:
            remark = "" if entry.startswith("-") else f"{variable}={text}: {_why(entry)} ends the list."
            return _of(chosen, listed), remark or ("" if chosen else f"{variable}={text} hides every GPU.")
        if found in chosen:
            return (), f"{variable}={text} repeats {entry!r}, and CUDA then sees no GPU at all."
        chosen.append(found)
    return _of(chosen, listed), ""


def _why(entry: str) -> str:
    return f"{entry!r} names no GPU, or more than one, and" if entry else "an empty entry"


def _of(chosen: Sequence[frozenset[str]], listed: Sequence[Listed]) -> tuple[Listed, ...]:
    uuids = frozenset().union(*chosen)
    return tuple(entry for entry in listed if entry.gpu.uuid in uuids)


def _named(entry: str, listed: Sequence[Listed]) -> frozenset[str]:
    """Return the UUIDs that one entry means: a GPU, all instances of a GPU, or one instance; else nothing.

    CUDA itself gives a process no more than one MIG instance. An entry that means a whole GPU in MIG mode
    stands for all its instances here, since Trivet gives each engine one of them.
    """
    if entry.startswith(("GPU-", "MIG-")):
        whole = entry.startswith("GPU-")
        by_key: dict[object, set[str]] = {}
        for item in listed:
            names = (item.gpu.mig_parent or item.gpu.uuid,) if whole else (item.gpu.uuid, *item.other_names)
            if any(name.startswith(entry) for name in names):
                by_key.setdefault(item.index if whole else item.gpu.uuid, set()).add(item.gpu.uuid)
        return frozenset(next(iter(by_key.values()))) if len(by_key) == 1 else frozenset()
    ordinal = _ORDINAL.match(entry)
    if ordinal is None or int(ordinal[0]) < 0:
        return frozenset()
    indices = sorted({item.index for item in listed})
    position = int(ordinal[0])
    if position >= len(indices):
        return frozenset()
    return frozenset(item.gpu.uuid for item in listed if item.index == indices[position])
