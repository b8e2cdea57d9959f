"""Which GPUs reach each other directly. Tensor parallelism wants NVLink, and loses much without any P2P.

GeForce cards from the 40 series on have no P2P between them; data then goes through the host's memory.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

BusId = tuple[int, int, int]
"""Domain, bus, device."""

READ, WRITE, NVLINK = 0, 1, 2
"""NVML_P2P_CAPS_INDEX_*; nvidia-ml-py writes the first as a tuple by mistake."""
STATUS_OK = 0
TO_GPU, TO_SWITCH = 0, 2
"""NVML_NVLINK_DEVICE_TYPE_*."""
LINKS_MAX = 36


class Asker(Protocol):
    """Asks NVML and answers None where NVML answers with an error."""

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call one function of NVML."""
        ...


@dataclass(frozen=True, slots=True)
class Peers:
    """By UUID, the UUIDs of the GPUs that each reaches: in any direct way, and over NVLink."""

    direct: Mapping[str, frozenset[str]]
    nvlink: Mapping[str, frozenset[str]]
    stranded: frozenset[str] = frozenset()
    """With links to an NVSwitch that lead to nobody: the fabric manager does not run."""


def find_peers(ask: Asker, handles: Mapping[str, Any], bus_ids: Mapping[str, BusId]) -> Peers:
    """Ask NVML for every pair. A GPU behind NVSwitches reaches all others behind them, if P2P is up."""
    direct: dict[str, set[str]] = {uuid: set() for uuid in handles}
    nvlink: dict[str, set[str]] = {uuid: set() for uuid in handles}
    ends = {uuid: _link_ends(ask, handle) for uuid, handle in handles.items()} if len(handles) > 1 else {}
    for one, two in itertools.combinations(handles, 2):
        reach = all(_p2p(ask, handles[one], handles[two], index) for index in (READ, WRITE))
        joined = _p2p(ask, handles[one], handles[two], NVLINK) or (
            bus_ids.get(two) in ends[one].gpus or bus_ids.get(one) in ends[two].gpus
        )
        joined = joined or (reach and ends[one].switched and ends[two].switched)
        if reach or joined:
            direct[one].add(two)
            direct[two].add(one)
        if joined:
            nvlink[one].add(two)
            nvlink[two].add(one)
    return Peers(
        stranded=frozenset(uuid for uuid, end in ends.items() if end.switched and not nvlink[uuid]),
        direct={uuid: frozenset(found) for uuid, found in direct.items()},
        nvlink={uuid: frozenset(found) for uuid, found in nvlink.items()},
    )


def bus_id(ask: Asker, handle: Any) -> BusId | None:
    """Return where a GPU sits on the PCI bus."""
    return _place(ask("nvmlDeviceGetPciInfo_v3", handle))


@dataclass(frozen=True, slots=True)
class _Ends:
    gpus: frozenset[BusId]
    switched: bool


def _link_ends(ask: Asker, handle: Any) -> _Ends:
    gpus: set[BusId] = set()
    switched = False
    for link in range(LINKS_MAX):
        active = ask("nvmlDeviceGetNvLinkState", handle, link)
        if active is None:  # there is no such link, nor any after it
            break
        if not active:
            continue
        kind = ask("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
        switched = switched or kind == TO_SWITCH
        place = _place(ask("nvmlDeviceGetNvLinkRemotePciInfo", handle, link)) if kind != TO_SWITCH else None
        gpus |= {place} if place else set()
    return _Ends(frozenset(gpus), switched)


def _p2p(ask: Asker, one: Any, two: Any, index: int) -> bool:
    return bool(ask("nvmlDeviceGetP2PStatus", one, two, index) == STATUS_OK)


def _place(info: Any) -> BusId | None:
    return (int(info.domain), int(info.bus), int(info.device)) if info is not None else None
