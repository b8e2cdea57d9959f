"""Which engines Trivet has started, written down so that its next start knows them."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from trivet.fleet.processes import Process, boot_id
from trivet.storage.private_files import replace_private_file

log = structlog.get_logger(__name__)

RECORDS_FILE = "engines.json"
LOGS_DIRECTORY = "logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """One engine that was started and not yet seen to end."""

    deployment: str
    fingerprint: str
    """What it was started as; see `LaunchPlan.fingerprint`."""
    keep: bool
    """Whether its guardian lets it outlive Trivet."""
    port: int
    guardian: Process
    engine: Process | None
    """None until the guardian has started it."""


class EngineRecords:
    """The records of one Trivet, in one private file that is replaced as a whole."""

    def __init__(self, directory: Path, *, keep: bool) -> None:
        """Take the directory, which exists and is private, and whether engines outlive Trivet."""
        self.directory = directory
        self.keep = keep
        self._path = directory / RECORDS_FILE
        self._boot = boot_id()
        self._records: dict[str, EngineRecord] = {}

    def log_path(self, deployment: str) -> Path:
        """Return the file that a deployment's engine writes to."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", deployment).strip("-.")[:80]
        # Two names may become the same slug.
        mark = "" if slug == deployment else f"-{hashlib.sha256(deployment.encode()).hexdigest()[:6]}"
        return self.directory / LOGS_DIRECTORY / f"{slug}{mark}.log"

    def of(self, deployment: str) -> EngineRecord | None:
        """Return what is written down of a deployment's engine."""
        return self._records.get(deployment)

    @property
    def ports(self) -> set[int]:
        """Return the ports of the engines; one that loads may not listen on its own yet."""
        return {record.port for record in self._records.values()}

    def load(self) -> list[EngineRecord]:
        """Return what an earlier process left behind and still runs; forget the rest."""
        try:
            document = json.loads(self._path.read_bytes())
            found = [_read(entry) for entry in document["engines"]] if document["boot"] == self._boot else []
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("engines.records_unreadable", path=str(self._path), error=str(error))
            return []
        self._records = {
            record.deployment: record for record in found if record.guardian.alive or _left(record)
        }
        return list(self._records.values())

    def put(self, record: EngineRecord) -> None:
        """Write down an engine, in place of an earlier one of its deployment.

        Raises:
            StoreUnavailable: the file cannot be written.
        """
        self._records[record.deployment] = record
        self._write()

    def drop(self, deployment: str) -> None:
        """Forget a deployment's engine.

        Raises:
            StoreUnavailable: the file cannot be written.
        """
        if self._records.pop(deployment, None) is not None:
            self._write()

    def _write(self) -> None:
        document = {"boot": self._boot, "engines": [asdict(record) for record in self._records.values()]}
        replace_private_file(self._path, json.dumps(document, indent=1).encode())


def running_engines(directory: Path) -> tuple[int, ...]:
    """Return the processes of engines that are written down in a directory and run, with their guardians'.

    With `fleet.on_exit: keep` they need not run below any Trivet.
    """
    records = EngineRecords(directory, keep=False).load()
    processes = [record.guardian for record in records] + [
        record.engine for record in records if record.engine
    ]
    return tuple(process.pid for process in processes if process.alive)


def _left(record: EngineRecord) -> bool:
    return record.engine is not None and record.engine.alive


def _read(entry: dict[str, Any]) -> EngineRecord:
    engine = entry["engine"]
    return EngineRecord(
        deployment=str(entry["deployment"]),
        fingerprint=str(entry["fingerprint"]),
        keep=bool(entry["keep"]),
        port=int(entry["port"]),
        guardian=Process(int(entry["guardian"]["pid"]), int(entry["guardian"]["start_ticks"])),
        engine=Process(int(engine["pid"]), int(engine["start_ticks"])) if engine is not None else None,
    )
