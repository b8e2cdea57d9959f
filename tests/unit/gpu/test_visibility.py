"""What an engine is shown: the variables of its maker's runtime, and nothing inherited that hides more."""

import pytest

from trivet.domain.gpus import Gpu, visibility
from trivet.domain.tiers import is_gpu
from trivet.gpu.visible import CUDA_VARIABLES, ROCM_VARIABLES, Listed, let_through

NVIDIA = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6"
AMD = "GPU-8f3a1c0d4e5b6a79"


@pytest.mark.parametrize(
    ("uuids", "shown"),
    [
        ([], {}),
        ([NVIDIA, MIG], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": f"{NVIDIA},{MIG}"}),
        (["0"], {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0"}),
        (["AMD-0000:03:00.0"], {}),
        (
            [AMD],
            {
                "ROCR_VISIBLE_DEVICES": AMD,
                "HIP_VISIBLE_DEVICES": None,
                "CUDA_VISIBLE_DEVICES": None,
                "GPU_DEVICE_ORDINAL": None,
            },
        ),
    ],
)
def test_the_variables(uuids: list[str], shown: dict[str, str | None]) -> None:
    """CUDA's by UUID or a Jetson's index; ROCm's by its own UUIDs, and the layers above it taken away."""
    assert visibility(uuids) == shown
    assert all(is_gpu(uuid) for uuid in uuids)


@pytest.mark.parametrize(("uuid", "layers"), [(NVIDIA, CUDA_VARIABLES), (AMD, ROCM_VARIABLES)])
def test_what_is_shown_is_what_is_read(uuid: str, layers: tuple[tuple[str, ...], ...]) -> None:
    """A Trivet in the engine's place would find the same GPU."""
    listed = [
        Listed(gpu=Gpu(uuid=other, name="card"), index=i) for i, other in enumerate((uuid, "GPU-other"))
    ]
    told = {name: text for name, text in visibility([uuid]).items() if text is not None}
    assert [entry.gpu.uuid for entry in let_through(told, listed, layers).listed] == [uuid]


def test_the_host_is_no_gpu() -> None:
    """Nor is a GPU that nobody can name."""
    assert not any(is_gpu(device) for device in ("host", "", "NVML-3"))
