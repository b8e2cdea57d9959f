"""Less text with each request: what repeats is told once, and an index has what it is searched by."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_IN_FULL = """
    UPDATE {0}
       SET rows = (SELECT row_texts.text FROM row_texts WHERE row_texts.name = {0}.rows)
     WHERE rows IN (SELECT name FROM row_texts)
"""
_IN_DIGITS = "UPDATE entries SET hash = lower(hex(hash)) WHERE typeof(hash) = 'blob'"
_PREVIOUS = f"""
    UPDATE entries
       SET prev_hash = coalesce((SELECT earlier.hash
                                   FROM entries AS earlier
                                  WHERE earlier.organisation = entries.organisation
                                    AND earlier.at_ns <= entries.at_ns
                                    AND earlier.seq < entries.seq
                                  ORDER BY earlier.at_ns DESC, earlier.seq DESC
                                  LIMIT 1), '{"0" * 64}')
     WHERE prev_hash = ''
"""  # noqa: S608 - our own text


def upgrade() -> None:
    """Make a place for rows' texts. What is there stays as it was told."""
    op.create_table(
        "row_texts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False, comment="JSON; see `budgets.rows.rows_as_text`"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_row_texts")),
    )
    op.create_index(op.f("ix_row_texts_text"), "row_texts", ["text"], unique=True)
    op.drop_index("ix_entries_latest", "entries")
    op.create_index("ix_entries_organisation_at_ns", "entries", ["organisation", "at_ns"])


def downgrade() -> None:
    """Tell in full what was told briefly."""
    for name in ("reservations", "entries"):
        op.execute(_IN_FULL.format(name))
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_IN_DIGITS)
        op.execute(_PREVIOUS)
    op.drop_index("ix_entries_organisation_at_ns", "entries")
    op.create_index(
        "ix_entries_latest",
        "entries",
        ["organisation", "at_ns", "kind", "scope", "used_tokens", "used_weighted", "used_usd"],
    )
    op.drop_table("row_texts")
