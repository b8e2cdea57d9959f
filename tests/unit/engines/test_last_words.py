# ruff: noqa: E501 - log lines are as wide as they are
"""Why an engine ended, found in what it wrote."""

import pytest

from trivet.engines.last_words import cause, last_words

NO_MEMORY = """
(EngineCore_DP0 pid=9) INFO 11-26 10:25:04 [gpu_worker.py:298] Available KV cache memory: 0.10 GiB
(EngineCore_DP0 pid=9) ERROR 11-26 10:25:05 [core.py:708] EngineCore failed to start.
(EngineCore_DP0 pid=9) ERROR 11-26 10:25:05 [core.py:708] Traceback (most recent call last):
(EngineCore_DP0 pid=9) ERROR 11-26 10:25:05 [core.py:708] ValueError: To serve at least one request with the models's max seq len (131072), 16.00 GiB KV cache is needed.
(EngineCore_DP0 pid=9) Process EngineCore_DP0:
Traceback (most recent call last):
  File "api_server.py", line 1
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': 1}
[guardian 2026-11-26 10:25:06] the engine has ended with status 1
"""
PYDANTIC = """
Traceback (most recent call last):
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (99) is greater than the derived max_model_len (9). [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
CUDA = """
(Worker_TP0 pid=1) ERROR 11-26 10:25:05 [multiproc_executor.py:596] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
(EngineCore pid=9) ERROR 11-26 10:25:06 [core.py:708] Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
"""
GONE = """
INFO:     Application startup complete.
(APIServer pid=1) ERROR 11-26 10:25:15 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
"""
LLAMA = """
0.00.001 E llama_model_load: error loading model
llamacpp_server: /m.gguf is not a GGUF model file
"""
PROGRESS = (
    "Loading safetensors checkpoint shards:  25% | 1/4\rLoading safetensors checkpoint shards:  50% | 2/4\r"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            NO_MEMORY,
            "ValueError: To serve at least one request with the models's max seq len (131072), 16.00 GiB KV cache is needed.",
        ),
        (
            PYDANTIC,
            "Value error, User-specified max_model_len (99) is greater than the derived max_model_len (9).",
        ),
        (CUDA, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
        (
            "usage: x\napi_server.py: error: unrecognized arguments: --foo\n",
            "api_server.py: error: unrecognized arguments: --foo",
        ),
        (LLAMA, "llamacpp_server: /m.gguf is not a GGUF model file"),
        ("cannot run vllm: No such file or directory\n", "cannot run vllm: No such file or directory"),
        ("", ""),
    ],
)
def test_the_cause_is_told(text: str, words: str) -> None:
    """Not what other processes say of it, nor where it was raised."""
    assert cause(text) == words


def test_without_a_cause_the_last_words_are_told() -> None:
    """Whatever stands last; a progress bar's last state."""
    assert "EngineDeadError" in cause(GONE)
    assert last_words(PROGRESS) == "Loading safetensors checkpoint shards:  50% | 2/4"
    assert last_words("a\n\n[guardian x] the engine has ended with status 1\n") == "a"
