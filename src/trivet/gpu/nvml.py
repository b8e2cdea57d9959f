"""NVIDIA GPUs through NVML (`nvidia-ml-py`)."""

import contextlib


def gpu_uuids() -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that NVML shows, in its order; empty where there is no driver.

    A machine without a driver, with a mismatched one, or without permission has no GPU that Trivet
    could account for, so each is answered with an empty tuple.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        uuids = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):  # a lost GPU does not hide the others
                uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
                uuids.append(uuid if isinstance(uuid, str) else uuid.decode())
        return tuple(uuids)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
