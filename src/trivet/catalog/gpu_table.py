"""The GPUs that Trivet knows by name, read from `data/gpus.yaml` and from the operator's own file."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from trivet.catalog.entries import read_entries
from trivet.catalog.gpu_spec import GpuSpec, spec_from_memory, usable_of
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB

__all__ = ["GpuSpec", "GpuTable", "load_gpu_table"]

SHIPPED = Path(__file__).parent / "data" / "gpus.yaml"
NEAR_NAMES_MAX = 5
SAME_CARD_SHARE = 0.12
"""A total that differs from the table's by more belongs to another card of that name. ECC takes 6.25 % from
cards with GDDR memory."""

_VENDOR_WORDS = re.compile(
    r"\b(nvidia|geforce|amd|radeon|tesla|quadro|instinct|grid|tm"
    r"|graphics|gpu|card|generation|developer kit)\b"
)
_JOINED_VENDOR = re.compile(r"^(?:nvidia|geforce|amd|radeon|tesla|quadro|instinct)+(?=.)")
_MEMORY = re.compile(r"\b(\d+(?:\.\d+)?) ?(?:gib|gb|g)\b")
_BARE_MEMORY = re.compile(r" (\d+)$")
_JOINED_MEMORY = re.compile(r"([1-9]\d*)(?:gib|gb|g)$")
_SERIES = re.compile(r"^(?:rtx|gtx|rx)(?=\d)")
_VGPU = re.compile(r"-\d+[abcq]$", re.IGNORECASE)
_MIG = re.compile(r"\bmig (\d+)(?:c\.\d+)?g\.", re.IGNORECASE)

Text = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]


class GpuEntry(BaseModel):
    """One entry of gpus.yaml; the head of that file says what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    memory_gib: Positive
    usable_gib: Positive
    estimated: bool = False
    bandwidth_gb_s: Positive
    bf16_tflops: Positive
    fp8_tflops: Positive | None = None
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    connect: Literal["nvlink", "pcie", "none"] = "pcie"
    vendor: Literal["nvidia", "amd"] = "nvidia"
    unified: bool = False
    also: tuple[Text, ...] = ()
    driver: tuple[Text, ...] = ()

    def spec(self) -> GpuSpec:
        """Return the entry as the value that planning works with."""
        capability = self.compute_capability and tuple(
            int(part) for part in self.compute_capability.split(".")
        )
        return GpuSpec(
            name=self.name,
            memory_gib=self.memory_gib,
            usable_bytes=int(self.usable_gib * GIB),
            bandwidth_gb_s=self.bandwidth_gb_s,
            bf16_tflops=self.bf16_tflops,
            fp8_tflops=self.fp8_tflops,
            compute_capability=(capability[0], capability[1]) if capability else None,
            vendor=self.vendor,
            unified=self.unified,
            connect=self.connect,
            estimated=self.estimated,
        )


class GpuTable:
    """GPUs by the names that people and drivers give them."""

    def __init__(self, entries: Iterable[GpuEntry]) -> None:
        """Index the entries; of two with one name the later counts, of two with one alias the earlier."""
        by_name = {squashed(entry.name): entry for entry in entries}
        self.specs: tuple[GpuSpec, ...] = tuple(entry.spec() for entry in by_name.values())
        self._written: dict[str, list[GpuSpec]] = {}
        self._driver: dict[str, list[GpuSpec]] = {}
        pairs = list(zip(by_name.values(), self.specs, strict=True))
        for entry, spec in pairs:
            self._written[squashed(entry.name)] = [spec]
        for entry, spec in pairs:
            for name in entry.also:
                _index(self._written, squashed(name), spec)
            for name in (entry.name, *entry.also, *entry.driver):
                _index(self._driver, squashed(name), spec)
        for entry, spec in pairs:
            for name in (entry.name, *entry.also):
                # `RTX 3060 12GB` is one of the cards that are called `RTX 3060`, and `4090` is a name too.
                for short in (squashed(_MEMORY.sub("", _words(name))), _SERIES.sub("", squashed(name))):
                    _index(self._written, short, spec)
        for key, found in self._driver.items():
            for spec in found:
                _index(self._written, key, spec)

    def find(self, written: str) -> GpuSpec:
        """Return the GPU that a person means.

        Case, spaces, hyphens and underscores do not count, nor do makers' names; a memory size may follow
        (`rtx3060-12gb`, `A100-40`), or stand alone for a card of which nothing else is known (`24GB`).

        Raises:
            ConfigError: no GPU has the name, or none of that name has that much memory; says which are near.
        """
        key = squashed(written)
        if key in self._written:
            return self._written[key][0]
        for name, gib in self._named_memory(written):
            if not name:
                return spec_from_memory(f"{gib:g} GB GPU", int(gib * GIB))
            if name in self._written:
                return self._with_memory(written, self._written[name], gib)
        raise self._unknown(written, key)

    def for_driver_name(self, name: str, total_bytes: int) -> GpuSpec:
        """Return the GPU that a driver named and whose memory it told; never fails.

        `usable_bytes` follows the driver's total where that is smaller than the table's, as with ECC switched
        on, or another altogether. A MIG instance gets its share of the card's rates; a vGPU takes turns
        on the whole card and gets all. An unknown name gives a spec made from the memory alone (`known` is
        false).
        """
        mig = _MIG.search(name)
        whole = name[: mig.start()] if mig else name
        readings = (whole, _MEMORY.sub("", _words(whole)), _VGPU.sub("", whole))
        candidates = next((self._driver[key] for key in map(squashed, readings) if key in self._driver), [])
        if not candidates:
            return spec_from_memory(name, total_bytes)
        if mig:
            return _slice_of(candidates[0], int(mig[1]), name, total_bytes)
        spec = min(candidates, key=lambda one: abs(one.memory_gib * GIB - total_bytes))
        usable = spec.usable_bytes
        if spec.unified:
            usable = min(usable, total_bytes)
        elif total_bytes < usable or total_bytes > usable * (1 + SAME_CARD_SHARE):
            usable = usable_of(total_bytes)
        if abs(total_bytes / (spec.memory_gib * GIB) - 1) <= SAME_CARD_SHARE:
            return replace(spec, usable_bytes=usable)
        return replace(spec, usable_bytes=usable, memory_gib=round(total_bytes / GIB), estimated=True)

    def _named_memory(self, written: str) -> Iterator[tuple[str, float]]:
        """Yield (squashed name, GB) for each way to read a memory size out of a name."""
        words = _words(written)
        for pattern in (_MEMORY, _BARE_MEMORY):
            found = pattern.search(words)
            if found and float(found[1]) > 0:
                yield squashed(words[: found.start()] + " " + words[found.end() :]), float(found[1])
        key = squashed(written)
        for known in sorted(self._written, key=len, reverse=True):
            joined = _JOINED_MEMORY.match(key.removeprefix(known)) if key.startswith(known) else None
            if joined:
                yield known, float(joined[1])

    def _with_memory(self, written: str, variants: Sequence[GpuSpec], gib: float) -> GpuSpec:
        nearest = min(variants, key=lambda spec: abs(spec.memory_gib - gib))
        if abs(nearest.memory_gib - gib) <= SAME_CARD_SHARE * nearest.memory_gib:
            return nearest
        sizes = " or ".join(f"{size:g} GB" for size in sorted({spec.memory_gib for spec in variants}))
        names = [spec.name for spec in variants]
        raise ConfigError(
            f"No GPU called {written!r} is known: that card has {sizes}.",
            hint=f"Write one of: {', '.join(names)}.",
            param="gpus",
            details={"near": names},
        )

    def _unknown(self, written: str, key: str) -> ConfigError:
        names = self._near(key)
        near = f"Near names: {', '.join(names)}. " if names else ""
        return ConfigError(
            f"No GPU called {written!r} is known.",
            hint=f"{near}A size alone works too (24GB); the file that catalog.gpus names can add others.",
            param="gpus",
            details={"near": names},
        )

    def _near(self, key: str) -> list[str]:
        close = difflib.get_close_matches(key, self._written, n=3 * NEAR_NAMES_MAX, cutoff=0.6)
        digits = "".join(re.findall(r"\d{2,}", key))
        same_number = [known for known in self._written if digits and digits in known]
        specs = [spec for known in (*close, *same_number) for spec in self._written[known]]
        return list(dict.fromkeys(spec.name for spec in specs))[:NEAR_NAMES_MAX]


def load_gpu_table(path: Path | None = None) -> GpuTable:
    """Return the table that Trivet ships, with an operator's own file laid over it.

    Args:
        path: a file like `config/gpus.yaml`; its entries join the table, or replace those of the same name.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; says which and why.
    """
    entries = read_entries(SHIPPED, GpuEntry, "name")
    if path is not None:
        entries += read_entries(path.expanduser(), GpuEntry, "name", setting="catalog.gpus")
    return GpuTable(entries)


def squashed(name: str) -> str:
    """Return a name as it is compared: lower case, letters and digits only, without makers' names."""
    joined = re.sub(r"[^a-z0-9]", "", _VENDOR_WORDS.sub("", _words(name)))
    return _JOINED_VENDOR.sub("", joined)


def _words(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.lower()).strip()


def _index(index: dict[str, list[GpuSpec]], key: str, spec: GpuSpec) -> None:
    if key and spec not in index.setdefault(key, []):
        index[key].append(spec)


def _slice_of(card: GpuSpec, compute_slices: int, name: str, total_bytes: int) -> GpuSpec:
    """Return the spec of a MIG instance: sevenths of the compute, bandwidth by its share of the memory."""
    memory_share = min(1.0, total_bytes / (card.memory_gib * GIB))
    compute_share = min(compute_slices, 7) / 7
    return replace(
        card,
        name=name,
        memory_gib=round(total_bytes / GIB),
        usable_bytes=usable_of(total_bytes),
        bandwidth_gb_s=card.bandwidth_gb_s * memory_share,
        bf16_tflops=card.bf16_tflops * compute_share,
        fp8_tflops=card.fp8_tflops and card.fp8_tflops * compute_share,
        connect="none",
        estimated=True,
    )
