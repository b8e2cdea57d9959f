"""The bench of the cache measures what it says, on either store."""

from typing import Any

import pytest

from trivet.lab.bench_cache import bench_cache


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_every_lookup_is_right(store: Any) -> None:
    """Each kept answer is found for its own question, in both wordings, and no other one is."""
    measured = bench_cache(entries=120, lookups=40, store=store)
    assert (measured["wrong"], measured["false_hits"]) == (0, 0)
    assert {
        f"{kind}_{figure}_ms" for kind in ("exact", "similar", "miss") for figure in ("p50", "p99")
    } <= set(measured)
    assert (measured["entries"], measured["pairs"]["false_hits"]) == (120, 0)
