"""The GPU table: names as people and drivers write them, memory as CUDA sees it, an operator's own cards."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.catalog.gpu_spec import usable_of
from trivet.catalog.gpu_table import SHIPPED, GpuTable, load_gpu_table, squashed
from trivet.domain.errors import ConfigError
from trivet.domain.gpus import GIB, MIB

ROOT = Path(__file__).parents[3]
TABLE = load_gpu_table()
SOLD_AS_NAME = [(spec.name, spec) for spec in TABLE.specs]


def test_the_table_is_broad() -> None:
    """At least forty cards, from 8 GB consumer cards to B200, NVIDIA and AMD, discrete and unified."""
    assert len(TABLE.specs) >= 100
    assert {8, 12, 16, 24, 32, 48, 80, 180} <= {int(spec.memory_gib) for spec in TABLE.specs}
    assert {spec.vendor for spec in TABLE.specs} == {"nvidia", "amd"}
    assert sum(spec.unified for spec in TABLE.specs) >= 5


def test_the_file_is_where_operators_look() -> None:
    """`config/gpus.yaml` is the file that the package ships."""
    assert (ROOT / "config" / "gpus.yaml").resolve() == SHIPPED.resolve()


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("RTX4090", "RTX 4090"),
        ("rtx-4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("RTX4090-24GB", "RTX 4090"),
        ("RTX3060-12GB", "RTX 3060 12GB"),
        ("rtx 3060", "RTX 3060 12GB"),
        ("RTX3060 8GB", "RTX 3060 8GB"),
        ("rtx306012gb", "RTX 3060 12GB"),
        ("4060ti", "RTX 4060 Ti 8GB"),
        ("A100", "A100 80GB"),
        ("A100-80GB", "A100 80GB"),
        ("A100-40GB", "A100 40GB"),
        ("a100-40", "A100 40GB"),
        ("A100-SXM4-40GB", "A100 40GB"),
        ("a100_pcie", "A100 80GB PCIe"),
        ("L40S", "L40S"),
        ("L4", "L4"),
        ("A10", "A10"),
        ("A10 (22.5 GiB)", "A10"),
        ("A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("V100-32GB", "V100 32GB"),
        ("H100", "H100"),
        ("H100 80GB SXM", "H100"),
        ("H100-NVL", "H100 NVL"),
        ("h100-pcie", "H100 PCIe"),
        ("H200", "H200"),
        ("GH200", "GH200"),
        ("B200", "B200"),
        ("B200-192GB", "B200"),
        ("RTX5090", "RTX 5090"),
        ("RTX PRO 6000", "RTX PRO 6000"),
        ("RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("A6000", "RTX A6000"),
        ("GB10", "GB10"),
        ("DGX Spark", "GB10"),
        ("Jetson Orin", "Jetson AGX Orin 64GB"),
        ("jetson-thor", "Jetson AGX Thor"),
        ("7900XTX", "RX 7900 XTX"),
        ("MI300X", "MI300X"),
        ("Strix Halo", "Strix Halo 128GB"),
    ],
)
def test_names_as_people_write_them(written: str, name: str) -> None:
    """Case, spaces, hyphens and makers' names do not count; a memory size chooses among cards of one name."""
    assert TABLE.find(written).name == name


@given(st.sampled_from(TABLE.specs), st.data())
def test_every_name_survives_how_it_is_written(spec_index: object, data: st.DataObject) -> None:
    """Any name finds its own card, however it is capitalised and whatever joins its words."""
    spec = next(spec for spec in TABLE.specs if spec is spec_index)
    joint = data.draw(st.sampled_from([" ", "-", "_", "", "  "]))
    written = joint.join(spec.name.split())
    assert TABLE.find(data.draw(st.sampled_from([written, written.upper(), written.lower()]))) == spec


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("RTX4091", "RTX 4090"),
        ("H10", "H100"),
        ("MI300", "MI300X"),
        ("A100-24GB", "A100 40GB"),
        ("RTX3060-16GB", "RTX 3060 12GB"),
    ],
)
def test_an_unknown_name_lists_near_ones(written: str, near: str) -> None:
    """What is unknown is refused, and the message names what was probably meant."""
    with pytest.raises(ConfigError) as caught:
        TABLE.find(written)
    assert repr(written) in str(caught.value)
    assert near in str(caught.value)
    assert near in caught.value.details["near"]


@pytest.mark.parametrize("written", ["", "  ", "no such thing", "0GB"])
def test_nonsense_is_refused(written: str) -> None:
    """Nothing is guessed from what is no name at all."""
    with pytest.raises(ConfigError):
        TABLE.find(written)


def test_a_size_alone_is_a_card() -> None:
    """`24GB` is some card with 24 GB, with the rates of the slowest one of that size."""
    spec = TABLE.find("24GB")
    assert (spec.memory_gib, spec.known) == (24, False)
    assert 23 * GIB < spec.usable_bytes < 24 * GIB
    known = [other.bandwidth_gb_s for other in TABLE.specs if other.memory_gib == 24]
    assert spec.bandwidth_gb_s <= min(known)


@pytest.mark.parametrize(
    ("driver", "total_mib", "name", "usable_gib"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "RTX 4090", 23.52),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "RTX 4090 Laptop", 15.58),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100 80GB", 79.14),
        ("NVIDIA A100-SXM4-40GB", 40960, "A100 40GB", 39.39),
        ("NVIDIA A100 80GB PCIe", 81920, "A100 80GB PCIe", 79.14),
        ("NVIDIA H100 80GB HBM3", 81559, "H100", 79.18),
        ("NVIDIA H100 NVL", 95830, "H100 NVL", 93.02),
        ("NVIDIA H200", 143771, "H200", 139.72),
        ("NVIDIA GH200 480GB", 97871, "GH200", 94.37),
        ("NVIDIA B200", 183359, "B200", 178.35),
        ("Tesla T4", 15360, "T4", 14.56),
        ("Tesla V100-SXM2-32GB", 32510, "V100 32GB", 31.73),
        ("NVIDIA GB10", 122572, "GB10", 119.18),
        ("NVIDIA GeForce RTX 3060", 12288, "RTX 3060 12GB", 11.62),
        ("NVIDIA GeForce RTX 3060", 8192, "RTX 3060 8GB", 7.67),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "RTX 4060 Ti 16GB", 15.59),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "RTX PRO 6000 Server", 94.97),
        ("Orin (nvgpu)", 7620, "Jetson Orin Nano 8GB", 6.5),
        ("AMD Radeon RX 7900 XTX", 24560, "RX 7900 XTX", 23.49),
        ("AMD Radeon(TM) 8060S Graphics", 112640, "Strix Halo 128GB", 110.0),
        ("NVIDIA Jetson AGX Orin Developer Kit", 62800, "Jetson AGX Orin 64GB", 58.0),
        ("NVIDIA Jetson Orin Nano Developer Kit", 7620, "Jetson Orin Nano 8GB", 6.5),
        ("NVIDIA L40S-48Q", 49152, "L40S", 44.4),
    ],
)
def test_names_as_drivers_write_them(driver: str, total_mib: int, name: str, usable_gib: float) -> None:
    """A driver's name and total give the card; cards that share a name are told apart by memory."""
    spec = TABLE.for_driver_name(driver, total_mib * MIB)
    assert spec.name == name
    assert spec.usable_bytes / GIB == pytest.approx(usable_gib, abs=0.01)


def test_less_memory_than_the_table_says_is_believed() -> None:
    """With ECC switched on an RTX A6000 shows 46,068 MiB; a modified 4090 shows 48 GB."""
    with_ecc = TABLE.for_driver_name("NVIDIA RTX A6000", 46068 * MIB)
    assert with_ecc.usable_bytes == usable_of(46068 * MIB)
    assert with_ecc.bandwidth_gb_s == TABLE.find("A6000").bandwidth_gb_s
    modified = TABLE.for_driver_name("NVIDIA GeForce RTX 4090", 49140 * MIB)
    assert (modified.memory_gib, modified.usable_bytes) == (48, usable_of(49140 * MIB))


def test_a_mig_instance_is_a_share() -> None:
    """3g.40gb of an A100 80GB: its own memory, half the bandwidth, 3/7 of the compute, no peers."""
    whole = TABLE.find("A100-80GB")
    part = TABLE.for_driver_name("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 40192 * MIB)
    assert part.usable_bytes < 40192 * MIB
    assert part.connect == "none"
    assert part.bf16_tflops == pytest.approx(whole.bf16_tflops * 3 / 7)
    assert part.bandwidth_gb_s == pytest.approx(whole.bandwidth_gb_s / 2, rel=0.03)


@given(st.text(max_size=60), st.integers(min_value=GIB, max_value=512 * GIB))
def test_no_driver_name_fails(name: str, total_bytes: int) -> None:
    """Whatever a driver writes, there is a spec that fits into what it counted."""
    assert 0 < TABLE.for_driver_name(name, total_bytes).usable_bytes <= total_bytes


@pytest.mark.parametrize(("name", "spec"), SOLD_AS_NAME, ids=[name for name, _ in SOLD_AS_NAME])
def test_the_figures_are_plausible(name: str, spec: object) -> None:
    """Usable memory is below what is sold and near it; FP8 runs at twice BF16, NVIDIA's from Ada on."""
    card = TABLE.find(name)
    assert card == spec
    gib = card.usable_bytes / GIB
    # 141 GB of an H200 are decimal, as its maker counts; unified memory is shared with the system.
    low = 0.80 if card.unified else 0.89
    assert low * card.memory_gib <= gib < card.memory_gib
    assert 100 <= card.bandwidth_gb_s <= 8000
    if card.fp8_tflops is not None:
        assert card.fp8_tflops == pytest.approx(2 * card.bf16_tflops, rel=0.03)
    if card.compute_capability is not None:
        assert (card.fp8_tflops is not None) == (card.compute_capability >= (8, 9))
    assert (card.compute_capability is None) == (card.vendor == "amd")


def test_operators_cards_join_and_replace(tmp_path: Path) -> None:
    """A file of one's own adds cards, and replaces those whose names it repeats."""
    path = tmp_path / "gpus.yaml"
    path.write_text(
        "- {name: RTX 4090, memory_gib: 48, usable_gib: 47.3, bandwidth_gb_s: 1008, bf16_tflops: 165.2}\n"
        "- {name: Sample 9, memory_gib: 10, usable_gib: 9.5, bandwidth_gb_s: 500, bf16_tflops: 50,"
        " also: [S9]}\n",
        encoding="utf-8",
    )
    table = load_gpu_table(path)
    assert table.find("rtx4090-48gb").memory_gib == 48
    assert table.find("s9").name == "Sample 9"
    assert len(table.specs) == len(TABLE.specs) + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- {name: X1, memory_gib: 10}", "entry 1 (X1): usable_gib: field required"),
        ("- {name: X1, memory: 10}", "entry 1 (X1): memory: extra inputs"),
        ("- 7", "entry 1 (without name)"),
        ("name: X1", "must be a list"),
        ("- [", "is not valid YAML at line"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, text: str, expected: str) -> None:
    """A wrong file is refused with its path, the entry and the field."""
    path = tmp_path / "gpus.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_gpu_table(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.param == "catalog.gpus"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error, never an empty table."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_gpu_table(tmp_path / "absent.yaml")


def test_squashing() -> None:
    """What is compared has no maker, no case and no joints."""
    assert squashed("NVIDIA GeForce RTX-4090") == squashed("rtx 4090") == "rtx4090"
    assert GpuTable([]).specs == ()
