"""The shelf in a file: it outlives its process, and whatever befalls the file."""

from pathlib import Path

import pytest

from tests.unit.cache.shelves import entry, place
from trivet.cache import SqliteShelf
from trivet.domain.errors import StoreUnavailable
from trivet.storage.side_file import SideFile


def opened(path: Path) -> SqliteShelf:
    """Open a shelf of a megabyte."""
    return SqliteShelf(path, max_bytes=1_000_000)


async def test_it_outlives_its_process(tmp_path: Path) -> None:
    """What was kept is found by the next opening, readable by its owner alone."""
    path = tmp_path / "made" / "shelf.db"
    shelf = opened(path)
    await shelf.put([entry(place("a"), body=b"kept")], (), now_ns=0)
    await shelf.aclose()
    assert path.stat().st_mode & 0o777 == 0o600
    again = opened(path)
    found = await again.find(place("a"), now_ns=1, threshold=None)
    await again.aclose()
    assert found is not None
    assert found.body == b"kept"


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    """A cache that cannot be read is an empty one, and no reason not to start."""
    path = tmp_path / "shelf.db"
    path.write_bytes(content)
    shelf = opened(path)
    await shelf.put([entry(place("a"))], (), now_ns=0)
    assert await shelf.find(place("a"), now_ns=1, threshold=None) is not None
    await shelf.aclose()


async def test_another_versions_file_is_begun_anew(tmp_path: Path) -> None:
    """Its tables may mean something else."""
    path = tmp_path / "shelf.db"
    SideFile(path, "CREATE TABLE entries (id INTEGER)", 99).close()
    shelf = opened(path)
    assert (await shelf.put([entry(place("a"))], (), now_ns=0)).entries == 1
    await shelf.aclose()


async def test_what_was_removed_is_not_left_in_the_file(tmp_path: Path) -> None:
    """Once it is closed, nothing of a cleared answer is on disk."""
    path = tmp_path / "shelf.db"
    shelf = opened(path)
    await shelf.put([entry(place(f"e{n}"), body=b"plugh" * 2000) for n in range(5)], (), now_ns=0)
    await shelf.clear(None)
    await shelf.aclose()
    assert b"plugh" not in path.read_bytes()
    assert not path.with_name("shelf.db-wal").exists()


async def test_a_closed_shelf_says_so(tmp_path: Path) -> None:
    """It neither finds nor keeps."""
    shelf = opened(tmp_path / "shelf.db")
    await shelf.put([entry(place("a"))], (), now_ns=0)
    await shelf.aclose()
    with pytest.raises(StoreUnavailable):
        await shelf.find(place("a"), now_ns=0, threshold=None)
    with pytest.raises(StoreUnavailable):
        await shelf.put([], (), now_ns=0)


async def test_what_went_is_forgotten_in_the_end(tmp_path: Path) -> None:
    """Many entries come and go; what is there is found, and memory does not grow with what was."""
    shelf = SqliteShelf(tmp_path / "shelf.db", max_bytes=20_000)
    for number in range(60):
        await shelf.put([entry(place(f"{n}-{number}", like=f"{n}{number}")) for n in range(20)], (), now_ns=0)
        assert await shelf.find(place(f"19-{number}"), now_ns=1, threshold=None) is not None
    assert len(shelf._known) < 1_300
    await shelf.aclose()
