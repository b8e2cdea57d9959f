"""The first schema, but for the ledger."""

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
    _outcomes()
    _attempts()
    _device_minutes()


def downgrade() -> None:
    """Drop every table, those that refer to others first."""
    for table in (
        "device_minutes",
        "attempts",
        "outcomes",
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
        sa.Column("priority", sa.Text(), server_default="interactive", nullable=False),
        sa.Column(
            "replaces",
            sa.Text(),
            nullable=True,
            comment="key_id of the key that this one follows in a rotation",
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
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
