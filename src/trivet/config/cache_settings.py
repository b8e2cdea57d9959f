"""What is kept of answers, and the Redis server that replicas may share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from trivet.config.section import PositiveFloat, PositiveInt, Section


class CacheSettings(Section):
    """Answers that are kept, to be given again. Off by default: it stores what engines answered."""

    enabled: bool = False
    mode: Literal["exact", "similar"] = "exact"
    """exact: the same request; similar: also one whose last question differs in courtesies only."""
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How much of two questions must be shared words, courtesies counted; what means something always is."""
    store: Literal["sqlite", "redis"] = "sqlite"
    """redis: shared by all replicas, at `redis.url`."""
    path: Path | None = None
    """The SQLite file; by default beside `store.path`. It may be deleted at any time while Trivet is down."""
    partition: Literal["organisation", "scope"] = "organisation"
    """Who shares answers: everyone of an organisation, or those of exactly one scope."""
    temperature: Literal["zero", "any"] = "zero"
    """zero: only requests of temperature 0 are kept unless they ask for it; any: all."""
    ttl_s: PositiveFloat = 86_400.0
    max_bytes: Annotated[int, Field(ge=1024 * 1024)] = 256 * 1024 * 1024
    max_entry_bytes: PositiveInt = 256 * 1024


class RedisSettings(Section):
    """A Redis server for what replicas share and may lose: rate limits, the response cache; never budgets."""

    url: SecretStr | None = None
    timeout_s: PositiveFloat = 0.25
    """How long it may take to answer; then each replica counts for itself for a while."""

    @field_validator("url")
    @classmethod
    def _is_redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("allowed: redis://:PASSWORD@HOST:6379/0, rediss:// or unix://.")
        return url
