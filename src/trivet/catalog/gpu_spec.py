"""What is known of a kind of GPU without asking one: memory, rates, links between several of them. Pure."""

from dataclasses import dataclass
from typing import Literal

from trivet.domain.gpus import GIB, MIB

Connect = Literal["nvlink", "pcie", "none"]

DRIVER_RESERVE_BYTES = 256 * MIB
DRIVER_RESERVE_SHARE = 0.01
"""nvidia-smi's total less what CUDA sees in total, as reported for recent Linux drivers: 348 MiB of 12 GB
(RTX 3060), 391 of 16 (RTX A4000), 480 of 24 (RTX 4090), 495 of 32 (RTX 5090), 480 of 80 (H100), 730 of 180
(B200). 256 MiB and 1 % is near those below 48 GB and errs to the low side above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """One kind of GPU. Rates are peaks by the maker's data sheet, dense."""

    name: str
    """As people write it: `RTX 4090`."""
    memory_gib: float
    """As it is sold."""
    usable_bytes: int
    """In total as CUDA or HIP sees it, before anything is allocated."""
    bandwidth_gb_s: float
    """Of its memory, in 10^9 bytes a second."""
    bf16_tflops: float
    """10^12 operations a second; the FP16 rate of cards that have no BF16."""
    fp8_tflops: float | None = None
    """None where there are no FP8 units."""
    compute_capability: tuple[int, int] | None = None
    """None for other makers than NVIDIA."""
    vendor: Literal["nvidia", "amd"] = "nvidia"
    unified: bool = False
    """Its memory is the machine's."""
    connect: Connect = "pcie"
    """How several of them in one machine usually reach each other; `none`: there is one to a machine."""
    estimated: bool = False
    """`usable_bytes` was derived, not seen on such a card."""
    known: bool = True
    """False where the rates are a guess by size, because no table has the card."""


def usable_of(total_bytes: int) -> int:
    """Return what CUDA sees in total of a GPU whose driver shows `total_bytes`, erring to the low side."""
    return max(0, int(total_bytes - DRIVER_RESERVE_BYTES - DRIVER_RESERVE_SHARE * total_bytes))


def spec_from_memory(name: str, total_bytes: int) -> GpuSpec:
    """Return the spec of a GPU of which only the memory is known.

    The rates are those of the slowest current cards of its size (RTX 4060 at 8 GB, L4 and A10 at 24, A100 at
    80): a plan made from them promises too little rather than too much.
    """
    gib = total_bytes / GIB
    return GpuSpec(
        name=name,
        memory_gib=round(gib),
        usable_bytes=usable_of(total_bytes),
        bandwidth_gb_s=250.0 if gib < 30 else 550.0 if gib < 60 else 1500.0,
        bf16_tflops=25.0 if gib < 14 else 40.0 if gib < 30 else 100.0 if gib < 60 else 300.0,
        estimated=True,
        known=False,
    )
