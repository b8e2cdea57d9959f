"""A program that holds memory of a real GPU, through the driver's own CUDA library: no PyTorch is needed.

`python -m tests.doubles.cuda_holder [--hold-bytes N] [--busy-s S]` makes a context on the first GPU that CUDA
shows it, takes the memory, and writes to it over and over for S seconds. Then it prints one line of JSON (the
UUIDs that CUDA shows; the first GPU's memory as CUDA counts it, before and after) and keeps all of it until
its standard input ends.
"""

import argparse
import ctypes
import json
import sys
import time
import uuid
from typing import Any

CHUNK_BYTES = 256 * 1024**2
WRITES_AHEAD = 64
"""So many are handed over before waiting, so that the GPU is never idle in between."""


class Cuda:
    """The few functions of libcuda that are needed; any error ends the program."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that answers with an error's number."""
        code = getattr(self._library, name)(*arguments)
        if code:
            sys.exit(f"{name} failed with CUDA error {code}")

    def uuids(self) -> list[str]:
        """Return the GPUs in CUDA's order, named as the driver names whole ones."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        found = []
        for index in range(count.value):
            raw = (ctypes.c_ubyte * 16)()
            self.call("cuDeviceGetUuid_v2", raw, self._device(index))
            found.append(f"GPU-{uuid.UUID(bytes=bytes(raw))}")
        return found

    def open_first(self) -> None:
        """Make a context on the first GPU, as every CUDA program has one."""
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device(0))
        self.call("cuCtxSetCurrent", context)

    def memory(self) -> tuple[int, int]:
        """Return what is free and the total, in bytes, as CUDA counts them."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def take(self, size_bytes: int) -> list[ctypes.c_uint64]:
        """Allocate in chunks; return their addresses."""
        taken = []
        for start in range(0, size_bytes, CHUNK_BYTES):
            address = ctypes.c_uint64()
            part = min(CHUNK_BYTES, size_bytes - start)
            self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(part))
            taken.append(address)
        return taken

    def work(self, address: ctypes.c_uint64, size_bytes: int, seconds: float) -> None:
        """Write to the memory for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(WRITES_AHEAD):
                self.call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), ctypes.c_size_t(size_bytes))
            self.call("cuCtxSynchronize")

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        return device


def main() -> None:
    """Hold, work, tell, wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hold-bytes", type=int, default=0)
    parser.add_argument("--busy-s", type=float, default=0.0)
    options = parser.parse_args()
    cuda = Cuda()
    uuids = cuda.uuids()
    cuda.open_first()
    before, total = cuda.memory()
    taken = cuda.take(options.hold_bytes or (CHUNK_BYTES if options.busy_s else 0))
    if options.busy_s:
        cuda.work(taken[0], min(CHUNK_BYTES, options.hold_bytes or CHUNK_BYTES), options.busy_s)
    after, _ = cuda.memory()
    told = {"uuids": uuids, "total_bytes": total, "free_bytes_before": before, "free_bytes_after": after}
    print(json.dumps(told), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
