"""One process owns a store, for as long as it lives and no longer."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trivet.domain.errors import StoreLocked, StoreUnavailable
from trivet.storage import Owner, StoreLock

HOLDER = """
import subprocess, sys
from pathlib import Path
from trivet.storage import StoreLock
with StoreLock.acquire(Path(sys.argv[1])) as lock:
    lock.announce("http://127.0.0.1:1", "secret")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    print("held", flush=True)
    sys.stdin.readline()
    child.communicate(b"")
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give the path of a store that does not exist yet."""
    return tmp_path / "deep" / "trivet.db"


def start_holder(store: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock, and itself has a child, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_nobody_owns_a_new_store(store: Path) -> None:
    """A store that nobody locked has no owner."""
    assert StoreLock.owner(store) is None


def test_the_owner_is_known_while_it_holds(store: Path) -> None:
    """The owner is told from the lock, first without, then with its address, and forgotten at release."""
    with StoreLock.acquire(store) as lock:
        starting = StoreLock.owner(store)
        lock.announce("http://127.0.0.1:8748", "secret")
        running = StoreLock.owner(store)
        lock.announce("http://[::1]:1", "s")
        moved = StoreLock.owner(store)
    assert starting == Owner(os.getpid())
    assert running == Owner(os.getpid(), "http://127.0.0.1:8748", "secret")
    assert moved == Owner(os.getpid(), "http://[::1]:1", "s")
    assert StoreLock.owner(store) is None


def test_a_second_owner_is_refused_in_the_same_process(store: Path) -> None:
    """Even within one process a store is owned once; after release it is free again."""
    with StoreLock.acquire(store) as lock:
        with pytest.raises(StoreLocked, match="does not listen"):
            StoreLock.acquire(store)
        lock.announce("http://127.0.0.1:8748", "secret")
        with pytest.raises(StoreLocked) as refused:
            StoreLock.acquire(store)
    assert refused.value.details == {"owner_url": "http://127.0.0.1:8748", "pid": os.getpid()}
    assert "secret" not in str(refused.value)
    lock.release()
    StoreLock.acquire(store).release()


def test_the_lock_file_is_private(store: Path) -> None:
    """The lock file holds a token, so its mode is 0600 even if it was something else before."""
    store.parent.mkdir()
    lock_file = store.with_name("trivet.db.lock")
    lock_file.write_text("old")
    lock_file.chmod(0o644)
    with StoreLock.acquire(store):
        assert stat.S_IMODE(lock_file.stat().st_mode) == 0o600


def test_another_process_is_refused_with_the_owners_address(store: Path) -> None:
    """A process that comes second learns the owner's URL and process."""
    holder = start_holder(store)
    try:
        with pytest.raises(StoreLocked) as refused:
            StoreLock.acquire(store)
        owner = StoreLock.owner(store)
    finally:
        holder.communicate("\n", timeout=30)
    assert refused.value.details == {"owner_url": "http://127.0.0.1:1", "pid": holder.pid}
    assert owner == Owner(holder.pid, "http://127.0.0.1:1", "secret")


def test_a_killed_owner_frees_the_store_although_its_child_lives(store: Path) -> None:
    """kill -9 of the owner frees the store at once; what it wrote into the lock file means nothing."""
    holder = start_holder(store)
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    assert json.loads(store.with_name("trivet.db.lock").read_text())["pid"] == holder.pid
    assert StoreLock.owner(store) is None
    StoreLock.acquire(store).release()
    # The orphaned child ends when its input does, which was the killed owner's pipe.
    holder.communicate(timeout=30)


def test_a_forked_child_does_not_keep_the_lock(store: Path) -> None:
    """A child that was forked and never executed another program shares no lock with its parent."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from trivet.storage import StoreLock\n"
        "lock = StoreLock.acquire(Path(sys.argv[1]))\n"
        "if os.fork() == 0:\n"
        "    print('forked', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    os._exit(0)\n"
        "os._exit(0)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "forked\n"
    assert process.wait(timeout=30) == 0
    assert StoreLock.owner(store) is None
    process.communicate("\n", timeout=30)


def test_a_link_in_the_locks_place_is_refused(store: Path, tmp_path: Path) -> None:
    """What a link points to is neither written nor believed, and a link to nothing makes no file."""
    store.parent.mkdir()
    target = tmp_path / "precious"
    target.write_text('{"pid": 1, "url": "http://evil", "token": "t"}')
    store.with_name("trivet.db.lock").symlink_to(target)
    with pytest.raises(StoreUnavailable, match="link"):
        StoreLock.acquire(store)
    with target.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert StoreLock.owner(store) is None
    assert target.read_text() == '{"pid": 1, "url": "http://evil", "token": "t"}'
    target.unlink()
    with pytest.raises(StoreUnavailable, match="link"):
        StoreLock.acquire(store)
    assert not target.exists()


def test_what_is_no_file_is_refused(store: Path) -> None:
    """A named pipe in the lock's place is refused at once, and names no owner."""
    store.parent.mkdir()
    os.mkfifo(store.with_name("trivet.db.lock"))
    with pytest.raises(StoreUnavailable, match="regular file"):
        StoreLock.acquire(store)
    assert StoreLock.owner(store) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_lock_is_refused(store: Path) -> None:
    """Another user's lock file is not used, and the owner that it names gets nobody's keys."""
    store.parent.mkdir()
    lock_file = store.with_name("trivet.db.lock")
    lock_file.write_text('{"pid": 1, "url": "http://evil", "token": "t"}')
    os.chown(lock_file, 12345, 12345)
    with pytest.raises(StoreUnavailable, match="another user's") as refused:
        StoreLock.acquire(store)
    assert refused.value.hint
    with lock_file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert StoreLock.owner(store) is None
    assert lock_file.read_text() == '{"pid": 1, "url": "http://evil", "token": "t"}'


def test_a_lock_that_cannot_be_written_is_unavailable(store: Path) -> None:
    """A record that the disk does not take is a StoreUnavailable with a hint, and locks nothing."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from trivet.domain.errors import StoreUnavailable\n"
        "from trivet.storage import StoreLock\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    StoreLock.acquire(Path(sys.argv[1]))\n"
        "except StoreUnavailable as error:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "    StoreLock.acquire(Path(sys.argv[1])).release()\n"
        "    print(bool(error.hint), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
