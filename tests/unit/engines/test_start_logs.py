# ruff: noqa: E501 - log lines are as wide as they are
"""What engines say of their memory while they start, as real logs of several versions said it."""

from typing import Any

import pytest

from trivet.domain.gpus import GIB, MIB
from trivet.domain.observations import MemoryObservation
from trivet.engines.llamacpp_log import read_llamacpp_log
from trivet.engines.vllm_log import read_vllm_log

V0 = """
INFO 05-30 16:23:01 [llm_engine.py:240] Initializing a V0 LLM engine (v0.8.5) with config: model='m'
INFO 05-30 16:23:22 model_runner.py:1115] Loading model weights took 2.8875 GB
INFO 05-30 16:23:28 worker.py:267] the current vLLM instance can use total_gpu_memory (14.56GiB) x gpu_memory_utilization (0.50) = 7.28GiB
INFO 05-30 16:23:28 worker.py:267] model weights take 2.89GiB; non_torch_memory takes 0.01GiB; PyTorch activation peak memory takes 2.02GiB; the rest of the memory reserved for KV Cache is 2.36GiB.
INFO 05-30 16:23:28 executor_base.py:115] Maximum concurrency for 32768 tokens per request: 2.69x
INFO 05-30 16:23:50 model_runner.py:1671] Graph capturing finished in 15 secs, took 0.11 GiB
"""
V1 = """
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:10 [core.py:73] Initializing a V1 LLM engine (v0.10.2) with config: model='m'
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:30 [gpu_model_runner.py:2338] Model loading took 14.0801 GiB and 3.2 seconds
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:33 [gpu_worker.py:298] Available KV cache memory: 55.15 GiB
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:34 [kv_cache_utils.py:864] GPU KV cache size: 451,744 tokens
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:34 [kv_cache_utils.py:868] Maximum concurrency for 4,096 tokens per request: 110.29x
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:39 [gpu_model_runner.py:3118] Graph capturing finished in 5 secs, took 0.67 GiB
(EngineCore_DP0 pid=3021) INFO 09-23 18:12:39 [gpu_worker.py:391] Free memory on device (78.66/79.19 GiB) on startup. Desired GPU memory utilization is (0.9, 71.27 GiB). Actual usage is 14.08 GiB for weight, 1.97 GiB for peak activation, 0.07 GiB for non-torch memory, and 0.67 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=58333988249` to fit into requested memory, or `--kv-cache-memory=66273897472` to fully utilize gpu memory. Current kv cache memory in use is 59212694937 bytes.
"""
CONSUMED = """
(APIServer pid=4481) INFO 10-06 16:59:45 [api_utils.py:347]  version 0.32.0
(EngineCore pid=326) INFO 10-06 17:00:11 [model_runner.py:407] Model loading took 15.0 GiB memory and 5.420225 seconds
(EngineCore pid=326) INFO 10-06 17:00:30 [gpu_model_runner.py:6475] Estimated CUDA graph memory: 0.25 GiB total
(EngineCore pid=326) INFO 10-06 17:00:33 [gpu_worker.py:692] Available KV cache memory: 56.21 GiB
(EngineCore pid=326) INFO 10-06 17:00:33 [kv_cache_utils.py:2464] GPU KV cache size: 460,496 tokens, Maximum concurrency for 131,072 tokens per request: 3.51x
(EngineCore pid=326) INFO 10-06 17:00:41 [gpu_worker.py:955] Free memory on device (78.84/79.25 GiB) on startup. Desired GPU memory utilization is (0.92, 72.91 GiB). Actual usage is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory.
"""
TWO_WORKERS = """
(Worker_TP0 pid=1) INFO [gpu_worker.py:298] Available KV cache memory: 50.62 GiB
(Worker_TP1 pid=2) INFO [gpu_worker.py:298] Available KV cache memory: 50.40 GiB
(EngineCore_DP0 pid=9) INFO [kv_cache_utils.py:864] GPU KV cache size: 205,696 tokens
(EngineCore_DP0 pid=9) INFO [kv_cache_utils.py:868] Maximum concurrency for 4,096 tokens per request: 50.05x
(Worker_TP0 pid=1) INFO [gpu_worker.py:857] Actual usage is 106.69 GiB for weight, 6.31 GiB for peak activation, 0.95 GiB for non-torch memory, and 4.13 GiB for CUDAGraph memory.
(Worker_TP1 pid=2) INFO [gpu_worker.py:857] Actual usage is 106.69 GiB for weight, 6.30 GiB for peak activation, 2.10 GiB for non-torch memory, and 4.13 GiB for CUDAGraph memory.
"""
CPU = """
(EngineCore pid=5145) INFO 11-26 10:25:04 [v1/engine/core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'
(EngineCore pid=5145) INFO 11-26 10:25:07 [v1/worker/cpu_worker.py:260] Explicitly set (1.0/11.59) GiB for KV cache on node 0.
(EngineCore pid=5145) INFO 11-26 10:25:07 [v1/core/kv_cache_utils.py:2327] CPU KV cache size: 2,097,152 tokens, Maximum concurrency for 256 tokens per request: 8192.00x
"""


def gib(**figures: float) -> dict[str, Any]:
    """Return figures in GiB as bytes, under the names of MemoryObservation."""
    return {f"{name}_bytes": round(value * GIB) for name, value in figures.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            V0,
            MemoryObservation(
                engine_version="0.8.5",
                kv_tokens=round(32768 * 2.69),
                **gib(weights=2.89, non_torch=0.01, activation=2.02, kv=2.36, graphs=0.11),
            ),
        ),
        (
            V1,
            MemoryObservation(
                engine_version="0.10.2",
                kv_tokens=451_744,
                **gib(weights=14.08, non_torch=0.07, activation=1.97, kv=55.15, graphs=0.67),
            ),
        ),
        (
            CONSUMED,
            MemoryObservation(
                engine_version="0.32.0",
                kv_tokens=460_496,
                **gib(weights=15.0, non_torch=15.26 - 15.0, activation=1.44 - 0.25, kv=56.21, graphs=0.23),
            ),
        ),
        (
            TWO_WORKERS,
            MemoryObservation(
                kv_tokens=205_696,
                **gib(weights=106.69, non_torch=2.10, activation=6.31, kv=50.40, graphs=4.13),
            ),
        ),
        (CPU, MemoryObservation(engine_version="0.32.0", kv_tokens=2_097_152, **gib(kv=1.0))),
        ("", MemoryObservation()),
    ],
)
def test_vllm(text: str, expected: MemoryObservation) -> None:
    """Each version's lines give the same figures under the same names."""
    assert read_vllm_log(text) == expected


def test_tokens_of_hybrid_models_are_what_requests_can_use() -> None:
    """Where the printed tokens are divided by all groups of layers, the concurrency is right."""
    text = "GPU KV cache size: 205,696 tokens\nMaximum concurrency for 4,096 tokens per request: 80.0x"
    assert read_vllm_log(text).kv_tokens == 80 * 4096


GPU = """
build: 6123 (79c1160b) with cc (Debian 12.2.0-14) 12.2.0 for x86_64-linux-gnu
load_tensors:        CUDA0 model buffer size =  2100.50 MiB
load_tensors:        CUDA1 model buffer size =  2000.00 MiB
load_tensors:   CPU_Mapped model buffer size =   157.65 MiB
llama_context:  CUDA_Host  output buffer size =     0.58 MiB
llama_kv_cache:      CUDA0 KV buffer size =   256.00 MiB
llama_kv_cache:      CUDA1 KV buffer size =   256.00 MiB
llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  2/1 seqs), K (f16):  256.00 MiB, V (f16):  256.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    10.00 MiB
llama_context:      CUDA0 compute buffer size =   200.00 MiB
llama_context:      CUDA0 compute buffer size =   258.50 MiB
llama_context:      CUDA1 compute buffer size =   100.00 MiB
llama_context:  CUDA_Host compute buffer size =    12.01 MiB
"""
HOST = """
0.00.003.532 I srv          init: build_info: b0-unknown
0.00.006.577 I load_tensors:   CPU_Mapped model buffer size =     0.57 MiB
0.00.006.831 I llama_context:        CPU  output buffer size =     0.01 MiB
0.00.007.037 I llama_kv_cache:        CPU KV buffer size =     2.12 MiB
0.00.012.794 I llama_kv_cache: size =    2.12 MiB (  2048 cells,   2 layers,  4/4 seqs), K (q8_0):    1.06 MiB, V (q8_0):    1.06 MiB
0.00.009.070 I sched_reserve:        CPU compute buffer size =     3.77 MiB
"""


@pytest.mark.parametrize(
    ("text", "version", "mib", "tokens"),
    [
        (GPU, "6123", (2100.5, 266.0, 258.5), 4096),
        (HOST, None, (0.57, 2.12, 3.77), 4 * 2048),
    ],
)
def test_llamacpp(text: str, version: str | None, mib: tuple[float, ...], tokens: int) -> None:
    """The fullest GPU counts, or the host where there is none; pinned host memory is not the GPU's."""
    weights, kv, compute = (round(figure * MIB) for figure in mib)
    assert read_llamacpp_log(text) == MemoryObservation(
        engine_version=version, weights_bytes=weights, kv_bytes=kv, compute_bytes=compute, kv_tokens=tokens
    )


def test_silence_is_empty() -> None:
    """A log without figures is no observation."""
    assert read_llamacpp_log("hello").empty
    assert read_vllm_log("version 0.32.0").empty
    assert not read_vllm_log(CPU).empty
