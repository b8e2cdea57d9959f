"""Uses of keys, and holds that outside callers were given."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "key_uses",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column(
            "at_ns", sa.BigInteger(), nullable=False, comment="the last use, written down once a minute"
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_uses")),
    )
    op.create_table(
        "outside_calls",
        sa.Column("decision_id", sa.Text(), nullable=False, comment="and the id of the reservation"),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False, comment="JSON object: what was decided and held"),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("taken_by", sa.Text(), nullable=True, comment="execution | report"),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_outside_calls")),
    )
    op.create_index(op.f("ix_outside_calls_created_ns"), "outside_calls", ["created_ns"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("outside_calls")
    op.drop_table("key_uses")
