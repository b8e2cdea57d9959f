"""How many Ollama servers a plan takes, and which tier is on which. Pure.

One server has one OLLAMA_NUM_PARALLEL and sees one set of GPUs, and before it loads a further model it
unloads an idle one unless that model is predicted to fill at most 80 % of what is free (server/sched.go). So
tiers share a server only where they share the GPUs and the sequences, and where no load of one pushes another
out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trivet.catalog.machine import Device
from trivet.catalog.plan import Plan, TierPlan

FIRST_PORT = 11434
LOAD_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaServer:
    """One Ollama process."""

    name: str
    """`ollama`, or after the tier that it serves alone: `ollama-heavy`."""
    port: int
    tiers: tuple[str, ...]
    devices: tuple[Device, ...]
    parallel: int

    def environment(self, plan: Plan) -> dict[str, str]:
        """Return the variables that the server has to be started with, beside its address."""
        found = {
            "OLLAMA_NUM_PARALLEL": str(self.parallel),
            "OLLAMA_MAX_LOADED_MODELS": str(len(self.tiers)),
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NO_CLOUD": "1",
        }
        if len(plan.devices) > 1:
            amd = self.devices[0].spec.vendor == "amd"
            variable = "ROCR_VISIBLE_DEVICES" if amd else "CUDA_VISIBLE_DEVICES"
            found[variable] = ",".join(device.uuid for device in self.devices)
        return found


def ollama_servers(plan: Plan) -> tuple[OllamaServer, ...]:
    """Return the servers, the one with the most tiers first: it is the one that may be there already."""
    tiers = {name: tier for name, tier in plan.tiers.items() if tier.variant.engine == "ollama"}
    groups: dict[tuple[tuple[Device, ...], int], list[str]] = {}
    for name, tier in tiers.items():
        groups.setdefault((tier.devices, tier.sequences), []).append(name)
    parts = [part for names in groups.values() for part in _undisturbed(names, plan)]
    parts.sort(key=len, reverse=True)
    return tuple(
        OllamaServer(
            name="ollama" if position == 0 else f"ollama-{'-'.join(names)}",
            port=FIRST_PORT + position,
            tiers=tuple(names),
            devices=tiers[names[0]].devices,
            parallel=tiers[names[0]].sequences,
        )
        for position, names in enumerate(parts)
    )


def _undisturbed(names: list[str], plan: Plan) -> list[list[str]]:
    """Split tiers where one would push another out; those that take turns never disturb each other."""
    if all(_loads_beside(names, moment, plan.tiers) for moment in plan.groups):
        return [names]
    turns = [name for name in names if plan.tiers[name].swapped]
    alone = [[name] for name in names if name not in turns]
    return [*([turns] if turns else []), *alone]


def _loads_beside(names: Sequence[str], moment: Sequence[str], tiers: Mapping[str, TierPlan]) -> bool:
    """Tell whether each model of a server can be loaded: larger ones first, those that take turns last."""
    there = [tiers[name] for name in moment if name in names]
    if len(there) < 2:
        return True
    device = there[0].devices[0]
    taken = sum(
        tiers[name].used_bytes for name in moment if name not in names and device in tiers[name].devices
    )
    for position, tier in enumerate(sorted(there, key=lambda one: (one.swapped, -one.used_bytes))):
        if position and tier.used_bytes > LOAD_SHARE * (device.usable_bytes - taken):
            return False
        taken += tier.used_bytes
    return True
