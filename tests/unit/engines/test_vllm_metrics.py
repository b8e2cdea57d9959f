"""What vLLM's /metrics tells of the cache."""

import pytest

from trivet.engines.vllm_metrics import read_cache_info

OLD = 'vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="27392"} 1.0'
NEW = OLD.replace('engine="0"', 'engine="0",kv_cache_size_tokens="205000"')


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (f"# TYPE vllm:cache_config_info gauge\n{OLD}\n", 16 * 27392),
        (NEW, 205_000),
        (f"{NEW}\n{NEW}", 410_000),
        (OLD.replace('"27392"', '"None"'), None),
        ("vllm:num_requests_running 0.0", None),
        ("", None),
    ],
)
def test_tokens_of_the_cache(text: str, tokens: int | None) -> None:
    """The newer label is right for every model; several engines of one server add up."""
    assert read_cache_info(text).kv_tokens == tokens
