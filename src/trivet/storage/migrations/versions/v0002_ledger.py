"""The ledger's tables."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    _limits()
    _counters()
    _reservations()
    _entries()
    _tenants()
    _overrides()
    _idempotency_keys()
    _alerts()
    _outbox()
    _rate_limits()


def downgrade() -> None:
    """Drop every table, those that refer to others first."""
    for table in (
        "rate_limits",
        "outbox",
        "alerts",
        "idempotency_keys",
        "overrides",
        "tenants",
        "entries",
        "reservations",
        "counters",
        "limits",
    ):
        op.drop_table(table)


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column(
            "window", sa.Text(), nullable=False, comment="a kind of window, or request | task | session"
        ),
        sa.Column("amount", sa.BigInteger(), nullable=True, comment="NULL: explicitly unlimited"),
        sa.Column(
            "allowance", sa.BigInteger(), nullable=False, comment="what critical requests may use beyond it"
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("updated_ns", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("allowance >= 0", name=op.f("ck_limits_allowance")),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_limits_amount")),
        sa.PrimaryKeyConstraint("scope", "meter", "window", name=op.f("pk_limits")),
    )


def _counters() -> None:
    op.create_table(
        "counters",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column(
            "subject", sa.Text(), nullable=False, comment="the task or session; empty for calendar windows"
        ),
        sa.Column("window_start_s", sa.BigInteger(), nullable=False),
        sa.Column("window_end_s", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held BETWEEN 0 AND 4611686018427387904", name=op.f("ck_counters_held")),
        sa.CheckConstraint("used BETWEEN 0 AND 4611686018427387904", name=op.f("ck_counters_used")),
        sa.PrimaryKeyConstraint(
            "scope", "meter", "window", "subject", "window_start_s", name=op.f("pk_counters")
        ),
        sqlite_with_rowid=False,
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
        sa.Column("tokens", sa.BigInteger(), nullable=False, comment="held, as the next two"),
        sa.Column("weighted_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd_micros", sa.BigInteger(), nullable=False),
        sa.Column("max_output", sa.BigInteger(), nullable=False, comment="output tokens granted"),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="held | settled | released | expired_charged"),
        sa.Column("charged_tokens", sa.BigInteger(), nullable=False, comment="0 while held, as the next two"),
        sa.Column("charged_weighted", sa.BigInteger(), nullable=False),
        sa.Column("charged_usd", sa.BigInteger(), nullable=False),
        sa.Column(
            "remaining", sa.BigInteger(), nullable=True, comment="what the tightest row had left at the end"
        ),
        sa.Column(
            "owner",
            sa.Text(),
            nullable=False,
            comment="which opening of the store, or which replica, made it",
        ),
        sa.Column("decision_id", sa.Text(), nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=True, comment="NULL: it ends with its owner"),
        sa.Column("closed_ns", sa.BigInteger(), nullable=True),
        sa.Column(
            "rows",
            sa.Text(),
            nullable=False,
            comment="JSON list of [scope, meter, window, subject, window_start_s, window_end_s]",
        ),
        sa.CheckConstraint(
            "state IN ('held', 'settled', 'released', 'expired_charged')", name=op.f("ck_reservations_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(
        "ix_reservations_expiring",
        "reservations",
        ["expires_ns"],
        unique=False,
        sqlite_where=sa.text("state = 'held' AND expires_ns IS NOT NULL"),
        postgresql_where=sa.text("state = 'held' AND expires_ns IS NOT NULL"),
    )
    op.create_index(
        "ix_reservations_open",
        "reservations",
        ["owner"],
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
            comment="reserve | reweight | settle | release | expire | correct | record | open | limit | zone"
            " | override",
        ),
        sa.Column("reservation_id", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("used_tokens", sa.BigInteger(), nullable=False),
        sa.Column("used_weighted", sa.BigInteger(), nullable=False),
        sa.Column("used_usd", sa.BigInteger(), nullable=False),
        sa.Column("held_tokens", sa.BigInteger(), nullable=False),
        sa.Column("held_weighted", sa.BigInteger(), nullable=False),
        sa.Column("held_usd", sa.BigInteger(), nullable=False),
        sa.Column(
            "overrun", sa.BigInteger(), nullable=False, comment="tokens charged beyond the hold or the limit"
        ),
        sa.Column("rows", sa.Text(), nullable=False, comment="as in reservations"),
        sa.Column("detail", sa.Text(), nullable=False, comment="JSON object, by kind"),
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


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("scope", sa.Text(), nullable=False, comment="an organisation"),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("updated_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_tenants")),
    )


def _overrides() -> None:
    op.create_table(
        "overrides",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="amount | approval | emergency"),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False, comment="beyond the limit"),
        sa.Column("state", sa.Text(), nullable=False, comment="requested | approved | denied | revoked"),
        sa.Column("requester", sa.Text(), nullable=False),
        sa.Column("approver", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_ns", sa.BigInteger(), nullable=False),
        sa.Column("decided_ns", sa.BigInteger(), nullable=True),
        sa.Column("expires_ns", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('requested', 'approved', 'denied', 'revoked')", name=op.f("ck_overrides_state")
        ),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_overrides_amount")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_overrides")),
    )
    op.create_index(op.f("ix_overrides_scope"), "overrides", ["scope"], unique=False)


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="digest of the request that the key stands for"
        ),
        sa.Column("reservation_id", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_ns"), "idempotency_keys", ["created_ns"], unique=False)


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("window_start_s", sa.BigInteger(), nullable=False),
        sa.Column(
            "percent", sa.Integer(), nullable=False, comment="the threshold; each fires once per window"
        ),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("limit_amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "scope", "meter", "window", "subject", "window_start_s", "percent", name=op.f("pk_alerts")
        ),
    )


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("organisation", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="budget.threshold, ..."),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False, comment="JSON object"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_ns", sa.BigInteger(), nullable=False, comment="not to be tried before"),
        sa.Column("delivered_ns", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_outbox_waiting",
        "outbox",
        ["next_ns"],
        unique=False,
        sqlite_where=sa.text("delivered_ns IS NULL"),
        postgresql_where=sa.text("delivered_ns IS NULL"),
    )


def _rate_limits() -> None:
    op.create_table(
        "rate_limits",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("tokens_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("concurrent", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("updated_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_rate_limits")),
    )
