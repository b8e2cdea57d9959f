"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    _meta()
    _api_keys()
    _limits()
    _counters()
    _reservations()
    _entries()
    _outcomes()
    _attempts()
    _device_minutes()


def downgrade() -> None:
    """Drop every table, those that refer to others first."""
    for table in (
        "device_minutes",
        "attempts",
        "outcomes",
        "entries",
        "reservations",
        "counters",
        "limits",
        "api_keys",
        "meta",
    ):
        op.drop_table(table)


def _meta() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="hex HMAC-SHA-256 of the whole key under the pepper"
        ),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("tiers", sa.Text(), nullable=False, comment="JSON list; empty: all"),
        sa.Column("models", sa.Text(), nullable=False, comment="JSON list; empty: all"),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ns", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
    )


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True, comment="NULL: explicitly unlimited"),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("updated_ns", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_limits_amount")),
        sa.PrimaryKeyConstraint("scope", "meter", "window", name=op.f("pk_limits")),
    )


def _counters() -> None:
    op.create_table(
        "counters",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("window_start_s", sa.BigInteger(), nullable=False),
        sa.Column("window_end_s", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held BETWEEN 0 AND 4611686018427387904", name=op.f("ck_counters_held")),
        sa.CheckConstraint("used BETWEEN 0 AND 4611686018427387904", name=op.f("ck_counters_used")),
        sa.PrimaryKeyConstraint("scope", "meter", "window", "window_start_s", name=op.f("pk_counters")),
    )
    op.create_index(
        op.f("ix_counters_window_window_end_s"), "counters", ["window", "window_end_s"], unique=False
    )


def _reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="held | settled | released | expired_charged"),
        sa.Column("charged", sa.BigInteger(), nullable=False, comment="0 while held"),
        sa.Column(
            "remaining", sa.BigInteger(), nullable=True, comment="what the tightest row had left at the end"
        ),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="which opening of the store made it"),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("closed_ns", sa.BigInteger(), nullable=True),
        sa.Column(
            "rows",
            sa.Text(),
            nullable=False,
            comment="JSON list of [scope, window, window_start_s, window_end_s]",
        ),
        sa.CheckConstraint(
            "state IN ('held', 'settled', 'released', 'expired_charged')", name=op.f("ck_reservations_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(
        "ix_reservations_open",
        "reservations",
        ["epoch"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="reserve | settle | release | expire | record | correct | limit",
        ),
        sa.Column("reservation_id", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column(
            "used_delta", sa.BigInteger(), nullable=False, comment="added to `used` of every one of `rows`"
        ),
        sa.Column(
            "held_delta", sa.BigInteger(), nullable=False, comment="added to `held` of every one of `rows`"
        ),
        sa.Column(
            "overrun", sa.BigInteger(), nullable=False, comment="tokens charged beyond the hold or the limit"
        ),
        sa.Column("rows", sa.Text(), nullable=False, comment="as in reservations"),
        sa.Column(
            "detail",
            sa.Text(),
            nullable=False,
            comment="JSON object, by kind: the usage, or the limit that was set",
        ),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "prev_hash", sa.Text(), nullable=False, comment="hash of the organisation's entry before this one"
        ),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_entries")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_entries_organisation_at_ns"), "entries", ["organisation", "at_ns"], unique=False)
    op.create_index(op.f("ix_entries_organisation_seq"), "entries", ["organisation", "seq"], unique=False)
    op.create_index(
        "ix_entries_overrun",
        "entries",
        ["overrun"],
        unique=False,
        sqlite_where=sa.text("overrun > 0"),
        postgresql_where=sa.text("overrun > 0"),
    )


def _outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column(
            "at_ns", sa.BigInteger(), nullable=False, comment="when the request ended, epoch nanoseconds"
        ),
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("decision_id", sa.Text(), nullable=True),
        sa.Column("task_type", sa.Text(), nullable=True),
        sa.Column("task_id", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("complexity", sa.Float(), nullable=True),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=True),
        sa.Column("deployment", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False, comment="ok | cut | failed | cancelled | refused"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fallbacks", sa.Integer(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usage_source", sa.Text(), nullable=True, comment="engine | counted | ceiling"),
        sa.Column("latency_ms", sa.Float(), nullable=True),
        sa.Column("first_token_ms", sa.Float(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("reasons", sa.Text(), nullable=False, comment="JSON list of {code, text}"),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_outcomes")),
    )
    op.create_index(op.f("ix_outcomes_at_ns"), "outcomes", ["at_ns"], unique=False)
    op.create_index(
        op.f("ix_outcomes_organisation_at_ns"), "outcomes", ["organisation", "at_ns"], unique=False
    )
    op.create_index(op.f("ix_outcomes_scope_at_ns"), "outcomes", ["scope", "at_ns"], unique=False)


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
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
            ["request_id"], ["outcomes.request_id"], name=op.f("fk_attempts_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_dispatched_ns"), "attempts", ["dispatched_ns"], unique=False)
    op.create_index(op.f("ix_attempts_request_id"), "attempts", ["request_id"], unique=False)
    op.create_index(
        op.f("ix_attempts_tier_dispatched_ns"), "attempts", ["tier", "dispatched_ns"], unique=False
    )


def _device_minutes() -> None:
    op.create_table(
        "device_minutes",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False, comment="minutes since 1970 in UTC"),
        sa.Column("busy_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", "minute", name=op.f("pk_device_minutes")),
    )
    op.create_index(op.f("ix_device_minutes_minute"), "device_minutes", ["minute"], unique=False)
