"""Batches of requests, and their lines."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False, comment="as whose key's requests its lines run"),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ns", sa.BigInteger(), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=True),
        sa.Column("ended_ns", sa.BigInteger(), nullable=True),
        sa.Column("kept_until_ns", sa.BigInteger(), nullable=True, comment="then all of it is removed"),
        sa.Column("runner", sa.Text(), nullable=True, comment="the process that works it off"),
        sa.Column("lease_ns", sa.BigInteger(), nullable=True, comment="until then it is that process's"),
        sa.CheckConstraint(
            "status IN ('arriving', 'queued', 'in_progress', 'cancelling', 'completed', 'cancelled',"
            " 'expired')",
            name=op.f("ck_batches_status"),
        ),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batches")),
    )
    op.create_index(op.f("ix_batches_status"), "batches", ["status"])
    op.create_index(op.f("ix_batches_scope_created_ns"), "batches", ["scope", "created_ns"])
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="of the line in its file, from 1"),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False, comment="how often it was begun"),
        sa.Column("deployment", sa.Text(), nullable=True, comment="chosen, then the one that answered"),
        sa.Column("request_id", sa.Text(), nullable=True, comment="of its last try"),
        sa.Column("body", sa.Text(), nullable=True, comment="the request, until the line has ended"),
        sa.Column("status_code", sa.Integer(), nullable=True, comment="NULL: it was never run"),
        sa.Column("answer", sa.Text(), nullable=True, comment="JSON"),
        sa.Column("ended_ns", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'completed', 'failed', 'abandoned')",
            name=op.f("ck_batch_lines_state"),
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.batch_id"],
            name=op.f("fk_batch_lines_batch_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_lines")),
    )
    op.create_index(
        "ix_batch_lines_batch_id_state_deployment", "batch_lines", ["batch_id", "state", "deployment"]
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("batch_lines")
    op.drop_table("batches")
