"""The hybrid cache that is predicted, compared with the groups that vLLM's own code forms."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.unit.catalog.configs import ALL
from tests.vllm.server import VENV_PYTHON
from trivet.catalog.architecture import Architecture
from trivet.catalog.engine_constants import vllm_constants
from trivet.catalog.kv_cache import state_bytes
from trivet.catalog.vllm_cache import vllm_cache

GEMMA4_31B: dict[str, Any] = {
    "model": "gemma-4-31b",
    "hidden_size": 5376,
    "num_hidden_layers": 60,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "num_global_key_value_heads": 4,
    "global_head_dim": 512,
    "layer_types": {"sliding_attention": 50, "full_attention": 10},
    "sliding_window": 1024,
    "intermediate_size": 21504,
    "vocab_size": 262_144,
}


def test_a_sequence_holds_what_vllm_would_give_it() -> None:
    """Groups, padding, shared pages, windows, batches in flight and states: to the byte."""
    script = Path(__file__).with_name("cache_groups.py")
    done = subprocess.run(
        [str(VENV_PYTHON), str(script)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, expected in json.loads(done.stdout.splitlines()[-1]).items():
        architecture = Architecture.from_config(GEMMA4_31B if name == "gemma4-31b" else ALL[name])
        constants = vllm_constants(None)
        found = vllm_cache(
            architecture.groups,
            kv_bytes=(2.0, 2.0),
            states=state_bytes(architecture, 2.0),
            tensor_parallel=1,
            context_tokens=131_072,
            in_flight_tokens=constants.batches_in_flight * 8192,
            constants=constants,
        )
        assert (name, found.sequence_bytes) == (name, expected)
