"""The ledger's bench: its figures, on either store."""

from pathlib import Path

import pytest

from trivet.lab.bench_ledger import ROWS, Store, bench_ledger


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_figures(store: Store, tmp_path: Path, postgres_url: str) -> None:
    """Every figure is there, and the books agree afterwards, else it would have failed."""
    found = bench_ledger(store, callers=2, seconds=0.3, directory=tmp_path, url=postgres_url)
    assert {"store": store, "callers": 2, "rows": ROWS, "seconds": 0.3}.items() <= found.items()
    for figure in ("pairs_per_s", "p50_ms", "p99_ms", "naive_pairs_per_s", "ratio", "fsync_p50_ms"):
        assert found[figure] > 0
    assert found["p50_ms"] <= found["p99_ms"]
    assert list(tmp_path.iterdir()) == []
