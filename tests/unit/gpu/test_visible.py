"""The rules by which the drivers read the variables that hide GPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.domain.gpus import Gpu
from trivet.gpu.visible import ROCM_VARIABLES, Listed, let_through

UUIDS = ("GPU-8932f937-d72c", "GPU-8932aaaa-0000", "GPU-17b1beef-1111")
CARDS = tuple(Listed(gpu=Gpu(uuid=uuid, name="card"), index=index) for index, uuid in enumerate(UUIDS))


def positions(text: str) -> list[int]:
    """Return which of the three cards a value lets through."""
    selection = let_through({"CUDA_VISIBLE_DEVICES": text}, CARDS)
    return [CARDS.index(entry) for entry in selection.listed]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0]),
        ("2,0", [0, 2]),
        (" 1 , 2 ", [1, 2]),
        ("0,2,-1,1", [0, 2]),  # the guide's own example
        ("0,7,1", [0]),
        ("-1", []),
        ("", []),
        ("  ", []),
        ("NoDevFiles", []),
        ("0,0", []),
        ("0,1,0", []),
        ("1gpu2,2ampere", [1, 2]),
        ("0,,1", [0]),
        ("GPU-17b1", [2]),
        ("GPU-17b1,GPU-8932f", [0, 2]),
        ("GPU-8932", []),  # two begin so
        ("GPU-17b1,GPU-8932,0", [2]),
        ("GPU-17b1,2", []),  # one card twice, in two ways
        ("GPU-ffff,0", []),
        ("MIG-17b1", []),
        ("99999999999999999999999", []),
    ],
)
def test_the_rules(text: str, expected: list[int]) -> None:
    """Indices, UUIDs and unambiguous beginnings count; an invalid entry ends; a repetition hides all."""
    assert positions(text) == expected


def test_without_the_variable_all_are_visible() -> None:
    """Not set is not empty."""
    assert let_through({}, CARDS).listed == CARDS


@pytest.mark.parametrize(
    ("text", "words"), [("0,7", "7"), ("", "unset"), ("0,0", "repeats"), ("-1", "hides every"), ("0", "")]
)
def test_a_remark_says_what_was_not_taken(text: str, words: str) -> None:
    """Whoever wonders where a GPU went is told."""
    remark = let_through({"CUDA_VISIBLE_DEVICES": text}, CARDS).remark
    assert words in remark
    assert bool(remark) == bool(words)


@given(st.text(alphabet="01239,-+ GPU-MIGabf/x\t", max_size=40))
def test_any_value_is_read(text: str) -> None:
    """Whatever the value, what is let through is some of the cards, each once, in the order of the bus."""
    found = positions(text)
    assert found == sorted(set(found))


def test_rocm_counts_in_two_layers() -> None:
    """HIP_VISIBLE_DEVICES counts what ROCR_VISIBLE_DEVICES let through; CUDA's name stands in for HIP's."""
    both = {"ROCR_VISIBLE_DEVICES": "1,GPU-17b1", "HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}
    assert let_through(both, CARDS, ROCM_VARIABLES).listed == CARDS[2:]
    assert let_through({"CUDA_VISIBLE_DEVICES": "1"}, CARDS, ROCM_VARIABLES).listed == CARDS[1:2]
