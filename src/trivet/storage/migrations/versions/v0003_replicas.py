"""What replicas that share a store need to know of each other."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, and leave room on the pages of rows that change all the time."""
    _ledger_heads()
    _replicas()
    if op.get_bind().dialect.name == "postgresql":
        # A changed row that finds room on its page needs no new entries in the indexes.
        op.execute("ALTER TABLE counters SET (fillfactor = 50)")
        op.execute("ALTER TABLE reservations SET (fillfactor = 70)")


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("replicas")
    op.drop_table("ledger_heads")


def _ledger_heads() -> None:
    op.create_table(
        "ledger_heads",
        sa.Column(
            "organisation",
            sa.Text(),
            nullable=False,
            comment="whoever changes its books locks this row first",
        ),
        sa.Column(
            "version", sa.BigInteger(), nullable=False, comment="of its limits, overrides and calendar"
        ),
        sa.Column(
            "windows", sa.Text(), nullable=True, comment="bounds of the open windows in seconds, as {1,2,...}"
        ),
        sa.Column(
            "contended_until_ns",
            sa.BigInteger(),
            nullable=False,
            comment="until then somebody waits for tokens",
        ),
        sa.PrimaryKeyConstraint("organisation", name=op.f("pk_ledger_heads")),
        postgresql_with={"fillfactor": 50},
    )


def _replicas() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "seen_ns", sa.BigInteger(), nullable=False, comment="its last sign of life, by the store's clock"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
