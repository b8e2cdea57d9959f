"""The real-vLLM group; see conftest."""
