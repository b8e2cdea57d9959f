"""What a vLLM server's /metrics says of its cache, for servers whose start-up log is not ours to read.

`vllm:cache_config_info` carries the whole cache configuration as labels (`CacheConfig.metrics_info`,
`vllm/config/cache.py` of v0.32.0): `num_gpu_blocks` and `block_size` in every version, and from v0.22 on
`kv_cache_size_tokens`, which is right for hybrid models too.
"""

import re

import aiohttp

from trivet.domain.observations import MemoryObservation
from trivet.engines.addresses import server_url
from trivet.engines.answers import read_body

ANSWER_LIMIT_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 5.0
_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


async def ask_cache(url: str, session: aiohttp.ClientSession, api_key: str | None) -> MemoryObservation:
    """Return what the server tells of its cache; an empty observation where it tells nothing."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with session.get(
            f"{server_url(url)}/metrics", headers=headers, allow_redirects=False, timeout=timeout
        ) as answer:
            body = await read_body(answer, ANSWER_LIMIT_BYTES)
            return read_cache_info((body or b"").decode("utf-8", "replace"))
    except (TimeoutError, aiohttp.ClientError, OSError):
        return MemoryObservation()


def read_cache_info(text: str) -> MemoryObservation:
    """Return the tokens that the caches of all the server's engines hold together."""
    tokens = [_tokens(dict(_LABEL.findall(labels))) for labels in _INFO.findall(text)]
    known = [count for count in tokens if count is not None]
    return MemoryObservation(kv_tokens=sum(known) if known else None)


def _tokens(labels: dict[str, str]) -> int | None:
    told = labels.get("kv_cache_size_tokens", "")
    if told.isdecimal():
        return int(told)
    blocks, block_size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(block_size) if blocks.isdecimal() and block_size.isdecimal() else None
