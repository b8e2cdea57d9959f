"""The plans of the classic machines, as a table in docs/guides/plan.md, each with an expert's reason."""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trivet.catalog.cards import load_catalog
from trivet.catalog.demand import read_demand
from trivet.catalog.gpu_table import GpuTable, load_gpu_table
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.model_card import Catalog
from trivet.catalog.objective import label_of
from trivet.catalog.placement import make_plan
from trivet.catalog.plan import Plan

PAGE = Path("docs/guides/plan.md")
WIDTH = 118
BEGIN, END = "<!-- plan-table: begin -->", "<!-- plan-table: end -->"


@dataclass(frozen=True, slots=True)
class Classic:
    """One machine of the table, and what an expert says of its plan."""

    memory: str
    gpus: str
    heavy: str
    """The model that `reason` is about; when the plan changes, the reason has to be written anew."""
    reason: str


CLASSICS: tuple[Classic, ...] = (
    Classic(
        "8 GB",
        "RTX4060",
        "qwen3-8b",
        "An 8 B model in 4 bits with 8k of context fills the card, so the three tiers take turns. Keeping "
        "a LIGHT beside it would shrink HEAVY to 4 B, which is what people are disappointed by on such "
        "cards.",
    ),
    Classic(
        "12 GB",
        "RTX3060-12GB",
        "phi-4",
        "A dense 14 B in 4 bits is the most that leaves the cache and the margin their room; turns again, "
        "since a LIGHT beside it would cost 2 GiB that are not there.",
    ),
    Classic(
        "16 GB",
        "RTX5060Ti-16GB",
        "phi-4",
        "The same HEAVY as on 12 GB, but now LIGHT stays beside whichever of the others is loaded: the "
        "tier that people wait for never waits for a load. The next larger dense models begin at 24 B, 14 "
        "GiB of weights.",
    ),
    Classic(
        "24 GB",
        "RTX4090",
        "mistral-small-24b-instruct-2501",
        "24 B with two small models beside it, all resident. A 27 to 32 B HEAVY fits as well, but then "
        "STANDARD and HEAVY take turns; pin it (`--pin heavy=qwen3.6-27b`) if its answers matter more "
        "than the loads.",
    ),
    Classic(
        "2 x 24 GB",
        "2xRTX4090",
        "qwen3-32b",
        "One card for a 32 B in 4 bits, the other for LIGHT and STANDARD in 8: no tensor parallelism over "
        "PCIe, no turns. A 70 B in 4 bits would need both cards to the last GiB, which is no margin.",
    ),
    Classic(
        "48 GB",
        "L40S",
        "qwen3-32b",
        "32 B in 4 bits, 9 B and 4 B in 8 bits, all resident. A 70 B in 4 bits fits alone, and would make "
        "every other request wait for a load.",
    ),
    Classic(
        "80 GB",
        "H100",
        "gpt-oss-120b",
        "117 B in MXFP4, made for one such card: 61 GiB of weights, of which a token uses 5 B parameters, so "
        "that HEAVY is as quick as the others beside it. A mixture of 109 B with 17 B for each token scores "
        "nearly the same and leaves less memory; the dense 70 B models fit too and are many times as slow.",
    ),
    Classic(
        "2 x 80 GB",
        "2xH100",
        "nemotron-3-super-120b-a12b",
        "A 120 B mixture in 8 bits over both cards, by NVLink; nothing is rounded to 4 bits any more. The "
        "smaller tiers share what is left, one on each card.",
    ),
    Classic(
        "4 x 80 GB",
        "4xH100",
        "qwen3.5-397b-a17b",
        "A 397 B mixture in 4 bits over all four; the whole set stays resident, with room for several full "
        "contexts at once.",
    ),
    Classic(
        "8 x 80 GB",
        "8xH100",
        "qwen3.5-397b-a17b",
        "The same model in 8 bits. What is larger (671 B in FP8) takes 78 GiB of each card before the "
        "first token.",
    ),
    Classic(
        "CPU, 16 GB",
        "cpu-16gb",
        "qwen3-8b",
        "Memory would allow more than the bandwidth does: at 45 GB/s an 8 B in 4 bits decodes about 5 "
        "tokens a second, and a 14 B would be below what anybody waits for.",
    ),
)


def rows(catalog: Catalog, table: GpuTable, classics: Sequence[Classic] = CLASSICS) -> Iterator[str]:
    """Yield the lines of the table, then the reasons.

    Raises:
        ValueError: a plan's HEAVY is another than its reason speaks of.
    """
    plans = {
        one.memory: make_plan(read_gpus(one.gpus, table), read_demand(), catalog, table) for one in classics
    }
    yield "| memory | `--gpus` | mode | LIGHT | STANDARD | HEAVY | fullest GPU |"
    yield "|---|---|---|---|---|---|---|"
    for one in classics:
        yield _row(one, plans[one.memory])
    yield ""
    for one in classics:
        heavy = plans[one.memory].tiers["heavy"].card.id
        if heavy != one.heavy:
            message = f"{one.memory}: HEAVY is {heavy} now, and the reason speaks of {one.heavy}"
            raise ValueError(message)
        yield textwrap.fill(f"- **{one.memory}.** {one.reason}", WIDTH, subsequent_indent="  ")


def _row(one: Classic, plan: Plan) -> str:
    cells = [one.memory, f"`{one.gpus}`", plan.mode]
    for tier in plan.tiers.values():
        spread = f", {len(tier.devices)} GPUs" if len(tier.devices) > 1 else ""
        label = label_of(tier.variant)
        cells.append(f"{tier.card.id} ({tier.variant.engine} {label}{spread})")
    fullest = max(plan.devices, key=lambda device: device.used_bytes / max(device.usable_bytes, 1))
    document = fullest.as_json()
    cells.append(f"{document['used_gib_peak']:.1f} of {document['usable_gib']:.1f} GiB")
    return f"| {' | '.join(cells)} |"


def page_with(text: str, table: Sequence[str]) -> str:
    """Return the page with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([f"{before}{BEGIN}", *table, f"{END}{after}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or with --check tell whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not current")
    options = parser.parse_args(arguments)
    text = PAGE.read_text(encoding="utf-8")
    wanted = page_with(text, list(rows(load_catalog(), load_gpu_table())))
    if options.check:
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
