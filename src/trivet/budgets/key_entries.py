"""What became of API keys, as entries of the hash chain: who made, followed, changed or revoked which one.

They stand in a chain of their own, whose name no organisation can have. So they hold up nobody's budgets, and
a key's scope is the rest of an entry's scope.
"""

from collections.abc import Mapping
from typing import Any

from trivet.budgets.entries import Entry, as_detail
from trivet.budgets.sqlite_books import Books
from trivet.domain.scopes import Scope
from trivet.storage.writes import Writes

KEYS = Scope("_keys")
_PREFIX = f"{KEYS}."


def enter_key(books: Books, writes: Writes, scope: Scope, facts: Mapping[str, Any]) -> None:
    """Append an entry."""
    entry = Entry(
        at_ns=books.calendar.now_ns(), kind="key", scope=within_keys(scope), detail=as_detail(facts)
    )
    books.append(writes, entry)


def within_keys(scope: Scope) -> Scope:
    """Return the scope of entries about keys of a scope."""
    return Scope(_PREFIX + scope)


def key_scope(scope: Scope) -> Scope:
    """Return whose key an entry is about, by the entry's scope; any other scope is itself."""
    return Scope(scope.removeprefix(_PREFIX))
