"""Where an engine's endpoints are."""


def server_url(url: str) -> str:
    """Return the server's base URL without `/v1` and without a trailing slash."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def api_url(url: str, path: str) -> str:
    """Return the URL of an OpenAI endpoint such as `chat/completions`; `url` may end in `/v1` or not."""
    return f"{server_url(url)}/v1/{path}"
