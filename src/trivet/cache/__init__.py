"""Answers that are kept, to be given again without asking an engine."""

from trivet.cache.redis_shelf import RedisShelf
from trivet.cache.response_cache import ResponseCache, opened_cache
from trivet.cache.shelf import Entry, Found, Holdings, Place, Shelf
from trivet.cache.sqlite_shelf import SqliteShelf

__all__ = [
    "Entry",
    "Found",
    "Holdings",
    "Place",
    "RedisShelf",
    "ResponseCache",
    "Shelf",
    "SqliteShelf",
    "opened_cache",
]
