"""A plan for a person: a table of tiers, a bar for each GPU, what was rejected. 80 columns."""

import sys
from typing import TYPE_CHECKING

from trivet.domain.gpus import GIB

if TYPE_CHECKING:
    from trivet.catalog.plan import DevicePlan, Plan

BAR_CHARS = 40
FIGURES_CHARS = 24
"""What stands beside a bar besides the name: `  100.0 of 100.0 GiB` and the gaps."""
REJECTED_MAX = 4
WIDTH = 80
_BLOCKS = ("█", "▓", "▒", "░", "·")
_PLAIN = ("W", "K", "o", ".", "-")


def plan_text(plan: "Plan") -> str:
    """Return the plan as text."""
    marks = _BLOCKS if (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf") else _PLAIN
    parts = [_head(plan), _tiers(plan), _bars(plan, marks), _turns(plan), _rejected(plan)]
    return "\n".join(part for part in parts if part)


def _head(plan: "Plan") -> str:
    kinds: dict[str, int] = {}
    for one in plan.devices:
        kinds[one.device.spec.name] = kinds.get(one.device.spec.name, 0) + 1
    names = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    machine = f"{names or 'no GPU'}{'' if plan.inventory.measured else ', as described'}"
    lines = [f"Machine: {machine}", f"Mode:    {_mode(plan)}    objective {plan.objective:.1f} of 100"]
    notes = [plan.inventory.reason, *plan.notes] if plan.inventory.reason else plan.notes
    lines += [line for note in notes for line in _wrapped(f"Note:    {note}", " " * 9)]
    lines += [f"Nothing fits {tier}; the reasons stand below." for tier in plan.unserved]
    return "\n".join(lines) + "\n"


def _mode(plan: "Plan") -> str:
    turns = len(plan.groups) > 1
    words = {
        "resident": "resident, all models stay in memory",
        "swap": "swap, models take turns in memory",
        "cpu": "cpu, models take turns in memory" if turns else "cpu, all models stay in memory",
    }
    return words[plan.mode]


def _tiers(plan: "Plan") -> str:
    one_kind = len({one.device.spec.name for one in plan.devices}) == 1
    header = ("tier", "model", "engine", "quant", "gpus", "context", "seqs", "tok/s")
    rows = [
        (
            name,
            tier.card.id,
            tier.variant.engine,
            tier.as_json()["quant"],
            _span([device.name for device in tier.devices], one_kind=one_kind),
            str(tier.context_tokens),
            str(tier.sequences),
            f"~{tier.tokens_per_s:.0f}",
        )
        for name, tier in plan.tiers.items()
    ]
    if not rows:
        return ""
    text = _columns([header, *rows], right={5, 6, 7})
    too_wide = max(len(line) for line in text.splitlines()) - WIDTH
    if too_wide > 0:
        room = max(len(row[1]) for row in rows) - too_wide
        cut = [(row[0], _cut(row[1], room), *row[2:]) for row in rows]
        text = _columns([header, *cut], right={5, 6, 7})
    return text


def _cut(name: str, room: int) -> str:
    """Shorten a model's name at its end; the whole one is in the JSON."""
    return name if len(name) <= room else f"{name[: max(room - 2, 1)]}.."


def _span(names: list[str], *, one_kind: bool) -> str:
    """Write neighbouring GPUs as a range: H100:0-3, or :0-3 where all are of one kind."""
    kind, colon, _ = names[0].rpartition(":")
    if not colon:
        return names[0]
    kind = "" if one_kind else kind
    whole = sorted(int(name.rpartition(":")[2]) for name in names)
    if len(whole) > 1 and whole == list(range(whole[0], whole[-1] + 1)):
        return f"{kind}:{whole[0]}-{whole[-1]}"
    return f"{kind}:{','.join(map(str, whole))}"


def _columns(rows: list[tuple[str, ...]], *, right: set[int]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def _bars(plan: "Plan", marks: tuple[str, ...]) -> str:
    if not plan.tiers:
        return ""
    width = max(len(one.device.name) for one in plan.devices)
    chars = min(BAR_CHARS, WIDTH - width - FIGURES_CHARS)
    lines = [
        f"{one.device.name.ljust(width)}  {_bar(one, marks, chars)}  {one.used_bytes / GIB:.1f} of "
        f"{one.usable_bytes / GIB:.1f} GiB"
        for one in plan.devices
    ]
    weights, kv, other, free, margin = marks
    legend = f"{weights} weights  {kv} KV cache  {other} working memory  {free} free  {margin} margin"
    return "\n".join([*lines, f"{' ' * width}  {legend}"]) + "\n"


def _bar(one: "DevicePlan", marks: tuple[str, ...], chars: int) -> str:
    """Draw the parts of a device's memory, each rounded where it ends, so that the bar is whole."""
    usable = max(one.usable_bytes, 1)
    ends = [one.weights_bytes, one.weights_bytes + one.kv_bytes, one.used_bytes]
    ends += [max(one.used_bytes, one.usable_bytes - one.margin_bytes), usable]
    text, drawn = "", 0
    for mark, end in zip(marks, ends, strict=True):
        upto = min(chars, round(end / usable * chars))
        text += mark * max(0, upto - drawn)
        drawn = max(drawn, upto)
    return text


def _turns(plan: "Plan") -> str:
    if len(plan.groups) < 2:
        return ""
    together = " | ".join(" + ".join(group) for group in plan.groups)
    return f"In memory together: {together}\n"


def _rejected(plan: "Plan") -> str:
    lines: list[str] = []
    for tier in plan.demand.tiers:
        won = plan.tiers[tier].worth if tier in plan.tiers else 0.0
        # The least of those that would be worth more: what a little more memory, or less demand, would bring.
        found = [one for one in plan.rejected if one.tier == tier and one.value > won]
        shown = found[-REJECTED_MAX:]
        if not shown:
            continue
        lines.append(f"Rejected for {tier}:")
        lines += [line for one in shown for line in _wrapped(f"  {one.model}: {one.reason}", "    ")]
    others = len(plan.rejected) - sum(1 for line in lines if line.startswith("  ") and line[2] != " ")
    if others > 0:
        lines.append(f"{others} more with their reasons: --json")
    return "\n".join(lines) + "\n" if lines else ""


def _wrapped(text: str, indent: str) -> list[str]:
    """Return a line, and those that it goes on in, indented."""
    import textwrap

    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
