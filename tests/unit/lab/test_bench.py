"""The decision benchmark: its rows, its prompts, its refusals."""

import gzip
import json
from pathlib import Path

import pytest

from trivet.domain.errors import ConfigError
from trivet.lab.bench import bench_decide, built_in_prompts, load_prompts


def test_rows_have_the_contracts_fields() -> None:
    """One row per length, with the median length for prompts as they are."""
    rows = bench_decide(["a", "bb", "ccc"], lengths=(None, 50), n=6)
    assert [(row["chars"], row["n"]) for row in rows] == [(2, 6), (50, 6)]
    assert all(set(row) == {"chars", "n", "p50_us", "p99_us"} for row in rows)
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in rows)


def test_default_lengths_are_as_is_3000_and_32000() -> None:
    """Without lengths the prompts are timed as they are and cut or padded to 3,000 and 32,000."""
    rows = bench_decide(built_in_prompts(20), n=10)
    assert [row["chars"] for row in rows[1:]] == [3000, 32000]


@pytest.mark.parametrize(("prompts", "n"), [([], 5), (["a"], 0), ([""], 5)])
def test_nothing_to_time_is_refused(prompts: list[str], n: int) -> None:
    """No prompts, no rounds, or a prompt that cannot be padded is an error."""
    with pytest.raises(ConfigError):
        bench_decide(prompts, lengths=(10,), n=n)


def test_built_in_prompts_are_varied_and_the_same_each_time() -> None:
    """The made-up prompts differ in text and length and do not change between runs."""
    prompts = built_in_prompts()
    assert prompts == built_in_prompts()
    assert len(set(prompts)) > 200
    assert min(map(len, prompts)) < 80
    assert max(map(len, prompts)) > 2000


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.jsonl.gz"])
def test_prompts_are_read_from_json_lines(tmp_path: Path, name: str) -> None:
    """Plain and gzipped files are read; blank lines are skipped."""
    path = tmp_path / name
    text = "\n".join(json.dumps({"prompt": prompt}) for prompt in ("one", "zw\u00f6lf")) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert load_prompts(path) == ["one", "zw\u00f6lf"]


@pytest.mark.parametrize("content", [b'{"text": "x"}', b"[]", b"{", b"\xff\xfe", b'{"prompt": ""}'])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    """A row without a prompt, or a file that is no JSON lines, is an error naming the file."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"rows\.jsonl"):
        load_prompts(path)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there, or is no gzip although it is called so, is an error."""
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    for name in ("absent.jsonl", "bad.gz"):
        with pytest.raises(ConfigError):
            load_prompts(tmp_path / name)
