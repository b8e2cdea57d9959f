"""Fewer indexes: each is a page or more that every commit writes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_CHARGES = "kind IN ('settle', 'expire', 'record', 'correct', 'attempt')"
_COLUMNS = (
    "request_id, attempt_id, tier, deployment, devices, model, gpu, dispatched_ns, ended_ns, device_ns,"
    " prompt_tokens, completion_tokens, status, error_code"
)


def upgrade() -> None:
    """Read entries by one index for three, and attempts by their requests; nobody read by the others."""
    op.drop_index("ix_entries_charges", "entries")
    op.drop_index("ix_entries_organisation_at_ns", "entries")
    op.drop_index("ix_entries_organisation_seq", "entries")
    op.create_index(
        "ix_entries_latest",
        "entries",
        ["organisation", "at_ns", "kind", "scope", "used_tokens", "used_weighted", "used_usd"],
    )
    op.drop_index("ix_outcomes_organisation_at_ns", "outcomes")
    op.drop_index("ix_outcomes_scope_at_ns", "outcomes")
    op.drop_index("ix_attempts_dispatched_ns", "attempts")
    op.drop_index("ix_attempts_request_id", "attempts")
    _key_attempts("request_id", "attempt_id")
    _comment_rows("JSON; see `budgets.rows.rows_as_text`")


def downgrade() -> None:
    """Make them again."""
    _comment_rows("JSON list of [scope, meter, window, subject, window_start_s, window_end_s]")
    _key_attempts("attempt_id")
    op.create_index("ix_attempts_request_id", "attempts", ["request_id"])
    op.create_index("ix_attempts_dispatched_ns", "attempts", ["dispatched_ns"])
    op.create_index("ix_outcomes_scope_at_ns", "outcomes", ["scope", "at_ns"])
    op.create_index("ix_outcomes_organisation_at_ns", "outcomes", ["organisation", "at_ns"])
    op.drop_index("ix_entries_latest", "entries")
    op.create_index("ix_entries_organisation_seq", "entries", ["organisation", "seq"])
    op.create_index("ix_entries_organisation_at_ns", "entries", ["organisation", "at_ns"])
    op.create_index(
        "ix_entries_charges",
        "entries",
        ["organisation", "at_ns", "scope", "used_tokens", "used_weighted", "used_usd", "kind"],
        sqlite_where=sa.text(_CHARGES),
        postgresql_where=sa.text(_CHARGES),
    )


def _comment_rows(comment: str) -> None:
    """Say how a reservation's rows are told, where columns have comments."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("reservations", "rows", existing_type=sa.Text(), comment=comment)


def _key_attempts(*columns: str) -> None:
    """Give the attempts another primary key. SQLite cannot change one: there it is another table."""
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("pk_attempts", "attempts", type_="primary")
        op.create_primary_key("pk_attempts", "attempts", list(columns))
        return
    op.drop_index("ix_attempts_tier_dispatched_ns", "attempts")
    op.rename_table("attempts", "attempts_before")
    op.create_table(
        "attempts",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False, comment="comma separated; empty for remote services"),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Boolean(), nullable=False),
        sa.Column("dispatched_ns", sa.BigInteger(), nullable=False, comment="epoch nanoseconds"),
        sa.Column("ended_ns", sa.BigInteger(), nullable=False, comment="epoch nanoseconds"),
        sa.Column(
            "device_ns", sa.BigInteger(), nullable=False, comment="attributed, summed over the devices"
        ),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["outcomes.request_id"],
            name=op.f("fk_attempts_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(*columns, name=op.f("pk_attempts")),
    )
    op.execute(f"INSERT INTO attempts ({_COLUMNS}) SELECT {_COLUMNS} FROM attempts_before")  # noqa: S608 - ours
    op.drop_table("attempts_before")
    op.create_index("ix_attempts_tier_dispatched_ns", "attempts", ["tier", "dispatched_ns"])
