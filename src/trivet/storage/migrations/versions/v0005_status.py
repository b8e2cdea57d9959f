"""Indexes for what operators ask: the charges of the last hour, and who changed which rules."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_CHARGES = "kind IN ('settle', 'expire', 'record', 'correct')"
_RULES = "kind IN ('limit', 'zone', 'override')"


def upgrade() -> None:
    """Make them."""
    op.create_index(
        "ix_entries_charges",
        "entries",
        ["organisation", "at_ns", "scope", "used_tokens", "used_weighted", "used_usd"],
        sqlite_where=sa.text(_CHARGES),
        postgresql_where=sa.text(_CHARGES),
    )
    op.create_index(
        "ix_entries_rules", "entries", ["seq"], sqlite_where=sa.text(_RULES), postgresql_where=sa.text(_RULES)
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_entries_rules", "entries")
    op.drop_index("ix_entries_charges", "entries")
