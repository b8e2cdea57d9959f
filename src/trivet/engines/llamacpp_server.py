"""The embedded engine: llama.cpp's own HTTP server from the `xllamacpp` wheel, as a program of its own.

Run `python -m trivet.engines.llamacpp_server --model FILE --port N`. It listens on 127.0.0.1 only, speaks
OpenAI's wire format, ends on SIGTERM, and ends by itself when its standard input reaches end-of-file: its
parent holds the other end of that pipe, so that the engine never outlives it, not even a kill -9.

Exit codes: 0 told to end (while the model still loads it is ended by the signal itself); 2 usage; 3 the
wheel is missing; 4 the model file cannot be loaded; 5 layers are to go on a GPU, and the wheel sees none.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXIT_WHEEL_MISSING = 3
EXIT_MODEL_UNUSABLE = 4
EXIT_NO_GPU = 5
GGUF_MAGIC = b"GGUF"
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""What llama.cpp accepts for its cache (`common/arg.cpp`, `kv_cache_types`)."""
POOLINGS = ("mean", "cls", "last")
LOG_ERRORS_ONLY = 1
LOG_BUFFERS = 4
"""llama.cpp's verbosity: 0 silent, 1 errors, 2 warnings, 3 information, 4 also what it allocates."""
LOG_SETTER = "_Z30common_log_set_verbosity_tholdi"
"""`void common_log_set_verbosity_thold(int)` of llama.cpp's `common/log.h`, as compilers mangle it."""
NO_GPU = (
    "{layers} layers are to go on a GPU (gpu_layers), and this llama.cpp sees none. The wheel that pip finds "
    "by itself works on the CPU: install xllamacpp's for CUDA, ROCm or Vulkan (its page says from where), or "
    "set gpu_layers to 0."
)
LAST_LOG_LINES_S = 0.1
"""llama.cpp writes its log in a thread of its own, which may lag so far behind."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to end; return the exit code."""
    options = _parser().parse_args(arguments)
    # An interrupt at a terminal reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_standard_input_while_loading(True)
    threading.Thread(target=_end_with_standard_input, name="lifeline", daemon=True).start()
    try:
        import xllamacpp
    except ImportError:
        return _fail(
            EXIT_WHEEL_MISSING, "the embedded engine is not installed: pip install 'trivet[llamacpp]'"
        )
    problem = _model_problem(options.model)
    if problem:
        return _fail(EXIT_MODEL_UNUSABLE, problem)
    if options.gpu_layers and not _sees_a_gpu(xllamacpp):
        return _fail(EXIT_NO_GPU, NO_GPU.format(layers=options.gpu_layers))
    set_verbosity = _verbosity_setter(xllamacpp)
    # What it allocates while loading is worth knowing; thirty lines for each request are not.
    verbosity = LOG_BUFFERS if set_verbosity else LOG_ERRORS_ONLY
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, options, verbosity))
    except (RuntimeError, ValueError) as error:
        time.sleep(LAST_LOG_LINES_S)  # so that the reason stands last
        return _fail(EXIT_MODEL_UNUSABLE, f"cannot serve {options.model} on port {options.port}: {error}")
    if set_verbosity:
        set_verbosity(LOG_ERRORS_ONLY)
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: told_to_end.set())
    _end_with_standard_input_while_loading(False)
    print(f"listening on {server.listening_address}", flush=True)
    told_to_end.wait()
    # The library's own shutdown waits for open streams; their clients are gone or will be told by the socket.
    sys.stdout.flush()
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trivet.engines.llamacpp_server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--alias", help="the name it serves the model under; by default the file's")
    parser.add_argument("--context", type=int, default=2048, help="context window of each slot, in tokens")
    parser.add_argument("--slots", type=int, default=4, help="requests run at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--gpu-layers", type=int, default=0, help="layers put on the GPU")
    parser.add_argument("--kv-type", choices=KV_TYPES, help="type of the KV cache's entries; by default f16")
    parser.add_argument("--embeddings", action="store_true", help="make vectors, too")
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="how the tokens' vectors become one; by default as the model's file says",
    )
    return parser


def _end_with_standard_input() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(0)


def _end_with_standard_input_while_loading(loading: bool) -> None:
    # No Python code runs while llama.cpp loads, neither the lifeline's thread nor a signal handler. So the
    # kernel is asked to signal the end of standard input, and to end the process by the signal itself.
    signal.signal(signal.SIGIO, signal.SIG_DFL if loading else signal.SIG_IGN)
    with contextlib.suppress(OSError):
        flags = fcntl.fcntl(0, fcntl.F_GETFL)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC if loading else flags & ~os.O_ASYNC)


def _model_problem(model: Path) -> str | None:
    try:
        with model.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        return f"cannot read the model file {model}: {error.strerror}"
    if magic != GGUF_MAGIC:
        return f"{model} is not a GGUF model file"
    return None


def _sees_a_gpu(xllamacpp: Any) -> bool:
    """Tell whether layers can go on a GPU.

    Without one llama.cpp would work on the CPU, say so in its log only, and be counted as the GPU's time.
    """
    return any("GPU" in device["type"].name for device in xllamacpp.get_device_info())


def _verbosity_setter(xllamacpp: Any) -> Callable[[int], None] | None:
    """Return the function that changes the verbosity of a running server; None where the wheel hides it."""
    try:
        setter: Callable[[int], None] = getattr(ctypes.CDLL(xllamacpp.xllamacpp.__file__), LOG_SETTER)
    except (AttributeError, OSError):
        return None
    return setter


def _parameters(xllamacpp: Any, options: argparse.Namespace, verbosity: int) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.model)
    parameters.model_alias = {options.alias or options.model.stem}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = options.port
    # llama.cpp shares n_ctx among its slots.
    parameters.n_ctx = options.context * options.slots
    parameters.n_parallel = options.slots
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.n_gpu_layers = options.gpu_layers
    parameters.fit_params = False
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    parameters.ui = False
    parameters.verbosity = verbosity
    if options.kv_type is not None:
        kv_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.kv_type.upper()}")
        parameters.cache_type_k = parameters.cache_type_v = kv_type
    if options.embeddings:
        parameters.embedding = True
        # A text is read in one step for its vector: what exceeds the step is refused.
        parameters.n_batch = parameters.n_ubatch = options.context
    if options.pooling is not None:
        pooling = f"LLAMA_POOLING_TYPE_{options.pooling.upper()}"
        parameters.pooling_type = getattr(xllamacpp.llama_pooling_type, pooling)
    parameters.offline = True
    return parameters


def _fail(code: int, sentence: str) -> int:
    print(f"llamacpp_server: {sentence}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
