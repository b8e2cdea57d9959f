"""What `trivet doctor` looks at on the machine: Python and its libraries, GPUs, limits, ports, disks."""

import contextlib
import platform
import resource
import shutil
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from trivet.cli.findings import Finding, error, ok, warning
from trivet.domain.errors import ConfigError, TrivetError
from trivet.domain.gpus import GIB, Gpu, Inventory, InventoryState

OPEN_FILES_WANTED = 4096
"""A stream needs two; a thousand at once, the store, the engines and a reserve."""
PULL_WANTED_BYTES = 50 * GIB
"""A 70B model at 4 bit is about 43 GB; whoever pulls a heavy one needs that at once."""
STORE_WANTED_BYTES = 2 * GIB
SHARED_MEMORY_WANTED_BYTES = GIB
OTHERS_SHARE_MAX = 0.1

# https://sqlite.org/wal.html#walresetbug: two connections that write or checkpoint at the same moment
# can corrupt a WAL file before these versions. Trivet writes and checkpoints through one connection only.
_WAL_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
_MALICIOUS_LITELLM = ("1.82.7", "1.82.8")
# SQLite's page on locking warns of these: their locks are not to be trusted.
_NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse.sshfs",
    "glusterfs",
    "ceph",
    "lustre",
    "afs",
    "drvfs",
)
POSTGRES_LEAST = 140000
_SICK = frozenset({InventoryState.HIDDEN, InventoryState.NO_GPU})


def software() -> Iterator[Finding]:
    """Check the interpreter and the libraries whose version matters."""
    yield ok("python", platform.python_version())  # an older one than 3.11 cannot even read these files
    yield sqlite(sqlite3.sqlite_version_info)
    yield ok("tzdata", metadata.version("tzdata"))
    yield litellm(metadata.version("litellm"))


def sqlite(version: tuple[int, ...]) -> Finding:
    """Check for the WAL-reset fault, which needs a second program at the store to do harm."""
    text = ".".join(map(str, version))
    if version >= (3, 51, 3) or any(version[:2] == line[:2] and version >= line for line in _WAL_FIXED):
        return ok("sqlite", text)
    return warning(
        "sqlite",
        f"{text} has the WAL-reset fault. Trivet alone cannot meet it: one process, one writing connection.",
        "While Trivet runs, let no other program open its store; stop Trivet before a backup.",
    )


def litellm(version: str) -> Finding:
    """Check for the two releases that were malicious uploads."""
    if version in _MALICIOUS_LITELLM:
        return error(
            "litellm", f"{version} is a malicious release.", "Remove it; treat every secret here as stolen."
        )
    return ok("litellm", version)


def gpus(inventory: Inventory) -> Iterator[Finding]:
    """Check the driver, then each GPU."""
    driver = f"driver {inventory.driver_version}" if inventory.driver_version else "no driver"
    match inventory.state:
        case InventoryState.OK:
            note = f"{driver}, {len(inventory.gpus)} visible"
            if inventory.reason:
                yield warning("gpu driver", note, inventory.reason)
            else:
                yield ok("gpu driver", note)
        case InventoryState.NO_GPU:
            yield warning(
                "gpu driver",
                f"{inventory.reason} Their work is counted as engine seconds, never as GPU hours.",
                "Nothing to do if there is no GPU. If there is one: `trivet gpus`, and see its state.",
            )
        case state:
            finding = warning if state in _SICK else error
            yield finding("gpu driver", f"{driver}, {state}", inventory.reason)
    yield from (_gpu(f"gpu {index}", gpu) for index, gpu in enumerate(inventory.gpus))


def _gpu(check: str, gpu: Gpu) -> Finding:
    total, others = gpu.total_bytes, gpu.others_bytes
    if not gpu.plannable or total is None:
        return error(check, f"{gpu.name} {gpu.uuid}: {gpu.state}", gpu.reason)
    note = f"{gpu.name} {gpu.uuid}: {total / GIB:.1f} GiB"
    if gpu.reason and not gpu.unified:
        return warning(check, note, gpu.reason)
    if others is not None and not gpu.unified and others > OTHERS_SHARE_MAX * total:
        return warning(
            check,
            f"{note}, of which other programs use {others / GIB:.1f}",
            "Stop them (`nvidia-smi` lists them), or let the plan leave them room.",
        )
    return ok(check, note)


def open_files() -> Finding:
    """Check how many files and connections a process may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES_WANTED:
        return ok("open files", "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}")
    limit = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return warning(
        "open files",
        f"{soft:,} at once; every stream takes two",
        f"`ulimit -n {OPEN_FILES_WANTED}` before `trivet serve` (this shell allows {limit}), "
        "or LimitNOFILE= in the unit.",
    )


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108 -- looked at, not written to
    """Check the room in which the processes of one vLLM exchange data when several GPUs share a model.

    A container gets 64 MiB unless told otherwise; NCCL and vLLM then fail at the start (vLLM's Docker page).
    """
    try:
        total_bytes = shutil.disk_usage(folder).total
    except OSError as fault:
        return error("shared memory", f"{folder}: {fault.strerror or fault}", "Mount a tmpfs at /dev/shm.")
    note = f"{total_bytes / GIB:,.1f} GiB at {folder}"
    if total_bytes >= SHARED_MEMORY_WANTED_BYTES:
        return ok("shared memory", note)
    return warning("shared memory", note, "Start the container with `--ipc=host` or `--shm-size=16g`.")


def port(host: str, number: int, owner_url: str | None) -> Finding:
    """Check that the port to serve on is free, or that the server of this very store has it."""
    where = f"{host}:{number}"
    if owner_url and owner_url.rstrip("/").endswith(f":{number}"):
        return ok("port", f"{where}, Trivet listens there")
    if number == 0:
        return ok("port", "a free one is taken at every start")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
        except PermissionError:
            return error(
                "port", f"{where} may not be opened by this user", "Use a port above 1023: `server.port`."
            )
        except OSError as fault:
            return error(
                "port",
                f"{where} cannot be used: {fault.strerror or fault}",
                f"See who has it (`ss -ltnp 'sport = :{number}'`), or set `server.host` and `server.port`.",
            )
    return ok("port", f"{where}, free")


def disk(check: str, folder: Path, wanted_bytes: int, fix: str) -> Finding:
    """Check how much room the disk has on which a folder lies, or will lie."""
    place = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    try:
        free_bytes = shutil.disk_usage(place).free
    except OSError as fault:
        return error(check, f"{folder}: {fault.strerror or fault}", "Let this user read the folder.")
    note = f"{free_bytes / GIB:,.1f} GiB free at {folder}"
    return ok(check, note) if free_bytes >= wanted_bytes else warning(check, note, fix)


def store_place(store: Path, root: Path = Path("/")) -> Finding:
    """Check that the store lies on a disk whose locks can be trusted, and that has room."""
    kind = file_system(store, root)
    if kind is not None and kind.startswith(_NETWORK_FILE_SYSTEMS):
        return error(
            "store",
            f"{store} lies on a network file system ({kind}), whose locks are not to be trusted.",
            "Set `store.path` to a local disk.",
        )
    return disk(
        "store", store.parent, STORE_WANTED_BYTES, "Make room, or set `metering.retention_days` lower."
    )


def shared_store(url: str) -> Finding:
    """Check that the PostgreSQL store of `store.url` answers, and whether its commits are on disk."""
    from trivet.storage.postgres import run_statement

    asked = (
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"
        " current_setting('fsync')"
    )
    try:
        ((number, version, fsync),) = run_statement(url, asked)
    except TrivetError as fault:
        return error("store.url", str(fault), "Start the server, or correct `store.url`.")
    note = f"PostgreSQL {version}"
    if number < POSTGRES_LEAST:
        return error("store.url", f"{note} is too old.", "Use PostgreSQL 14 or newer.")
    if fsync != "on":
        return warning(
            "store.url",
            f"{note} does not wait for its disk.",
            "Set `fsync = on`, or a power cut may undo holds.",
        )
    return ok("store.url", note)


def redis(url: str, timeout_s: float) -> Finding:
    """Check that the Redis of `redis.url` answers; without it Trivet works, each replica for itself."""
    from trivet.storage.redis_link import server_version

    try:
        return ok("redis.url", f"Redis {server_version(url, timeout_s)}")
    except ConfigError as fault:
        return error("redis.url", fault.message, "pip install 'trivet[redis]'")
    except TrivetError as fault:
        return warning("redis.url", str(fault), "Start the server, or correct `redis.url`.")


def file_system(path: Path, root: Path = Path("/")) -> str | None:
    """Return the kind of file system that a path lies on, by /proc/mounts; None where that is not there."""
    try:
        lines = (root / "proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    mounts = [fields for fields in (line.split(" ") for line in lines) if len(fields) > 2]
    found: tuple[int, str] | None = None
    absolute = path.absolute()
    for _, place, kind, *_rest in mounts:
        mount = Path(place.replace("\\040", " "))
        # Of mounts on one place the last is on top.
        if absolute.is_relative_to(mount) and (found is None or len(mount.parts) >= found[0]):
            found = (len(mount.parts), kind)
    return found[1] if found else None


def model_folders(environment: Mapping[str, str], home: Path) -> tuple[Path, Path]:
    """Return where Ollama and the Hugging Face libraries keep what they pull.

    Sources: Ollama's FAQ (OLLAMA_MODELS; the service's own home), huggingface_hub's environment variables.
    """
    service = Path("/usr/share/ollama/.ollama/models")
    ollama = Path(
        environment.get("OLLAMA_MODELS") or (service if service.is_dir() else home / ".ollama/models")
    )
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if cache:
        return ollama, Path(cache)
    base = environment.get("HF_HOME")
    if base is None:
        base = str(Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface")
    return ollama, Path(base).expanduser() / "hub"
