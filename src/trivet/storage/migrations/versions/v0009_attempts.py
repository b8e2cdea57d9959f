"""Attempts before a request's last one have entries of their own: they are charges too."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = ["organisation", "at_ns", "scope", "used_tokens", "used_weighted", "used_usd"]
_BEFORE = "kind IN ('settle', 'expire', 'record', 'correct')"
_SINCE = "kind IN ('settle', 'expire', 'record', 'correct', 'attempt')"
_KINDS_BEFORE = (
    "reserve | reweight | settle | release | expire | correct | record | open | limit | zone | override"
)
_KINDS_SINCE = _KINDS_BEFORE.replace("settle", "attempt | settle")


def upgrade() -> None:
    """Index them with the other charges, with the kind, so that requests can be counted."""
    _index([*_COLUMNS, "kind"], _SINCE)
    _comment(_KINDS_BEFORE, _KINDS_SINCE)


def downgrade() -> None:
    """Index the others alone."""
    _index(_COLUMNS, _BEFORE)
    _comment(_KINDS_SINCE, _KINDS_BEFORE)


def _index(columns: list[str], where: str) -> None:
    op.drop_index("ix_entries_charges", "entries")
    op.create_index(
        "ix_entries_charges", "entries", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )


def _comment(before: str, since: str) -> None:
    if op.get_bind().dialect.supports_comments:
        op.alter_column(
            "entries",
            "kind",
            existing_type=sa.Text(),
            existing_nullable=False,
            existing_comment=before,
            comment=since,
        )
