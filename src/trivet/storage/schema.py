"""Every table of the store, for all rooms, read from top to bottom.

Instants are integers with their unit in the name: `_ns` is nanoseconds and `_s` seconds since 1970 in UTC.
Columns said to hold JSON are Text with JSON in it, because some rooms write them through the driver.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    text,
)

from trivet.storage import batch_schema  # noqa: F401 - a page of its own; whoever has these tables has those too
from trivet.storage.metadata import metadata as metadata  # noqa: PLC0414 - it is looked for here

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
_LARGEST_TOTAL = 2**62
_RESERVATION_STATES = ("held", "settled", "released", "expired_charged")

# --- storage -------------------------------------------------------------------------------------------

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# --- access --------------------------------------------------------------------------------------------

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("digest", Text, nullable=False, comment="hex HMAC-SHA-256 of the whole key under the pepper"),
    Column("scope", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("tiers", Text, nullable=False, comment="JSON list; empty: all"),
    Column("models", Text, nullable=False, comment="JSON list; empty: all"),
    Column("label", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=True),
    Column("revoked_ns", BigInteger, nullable=True),
    Column("priority", Text, nullable=False, server_default="interactive"),
    Column("replaces", Text, nullable=True, comment="key_id of the key that this one follows in a rotation"),
)

key_uses = Table(
    "key_uses",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("at_ns", BigInteger, nullable=False, comment="the last use, written down once a minute"),
)

# --- budgets -------------------------------------------------------------------------------------------

limits = Table(
    "limits",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("window", Text, primary_key=True, comment="a kind of window, or request | task | session"),
    Column("amount", BigInteger, nullable=True, comment="NULL: explicitly unlimited"),
    Column("allowance", BigInteger, nullable=False, comment="what critical requests may use beyond it"),
    Column("version", Integer, nullable=False),
    Column("author", Text, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="amount"),
    CheckConstraint("allowance >= 0", name="allowance"),
)

counters = Table(
    "counters",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("subject", Text, primary_key=True, comment="the task or session; empty for calendar windows"),
    Column("window_start_s", BigInteger, primary_key=True),
    Column("window_end_s", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    CheckConstraint(f"used BETWEEN 0 AND {_LARGEST_TOTAL}", name="used"),
    CheckConstraint(f"held BETWEEN 0 AND {_LARGEST_TOTAL}", name="held"),
    Index(None, "window", "window_end_s"),
    # Every operation goes by the primary key: one tree to change, not two.
    sqlite_with_rowid=False,
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False, comment="held, as the next two"),
    Column("weighted_tokens", BigInteger, nullable=False),
    Column("usd_micros", BigInteger, nullable=False),
    Column("max_output", BigInteger, nullable=False, comment="output tokens granted"),
    Column("priority", Text, nullable=False),
    Column("state", Text, nullable=False, comment="held | settled | released | expired_charged"),
    Column("charged_tokens", BigInteger, nullable=False, comment="0 while held, as the next two"),
    Column("charged_weighted", BigInteger, nullable=False),
    Column("charged_usd", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=True, comment="what the tightest row had left at the end"),
    Column("owner", Text, nullable=False, comment="which opening of the store, or which replica, made it"),
    Column("decision_id", Text, nullable=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=True, comment="NULL: it ends with its owner"),
    Column("closed_ns", BigInteger, nullable=True),
    Column("rows", Text, nullable=False, comment="JSON; see `budgets.rows.rows_as_text`"),
    # One after the other: for IN (...) SQLite builds a list anew for every row that it checks.
    CheckConstraint(" OR ".join(f"state = '{state}'" for state in _RESERVATION_STATES), name="state"),
    # Recovery and reconciliation look only for what is open.
    Index(
        "ix_reservations_open",
        "owner",
        sqlite_where=text("state = 'held'"),
        postgresql_where=text("state = 'held'"),
    ),
    Index(
        "ix_reservations_expiring",
        "expires_ns",
        sqlite_where=text("state = 'held' AND expires_ns IS NOT NULL"),
        postgresql_where=text("state = 'held' AND expires_ns IS NOT NULL"),
    ),
)

# A request's rows are told three times, and by all requests of its scope in the same words: on SQLite
# reservations and entries give the words' name. See `budgets.row_texts`.
row_texts = Table(
    "row_texts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False, comment="JSON; see `budgets.rows.rows_as_text`"),
    Index(None, "text", unique=True),
)

entries = Table(
    "entries",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True),
    Column("organisation", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="reserve | reweight | attempt | settle | release | expire | correct | record | open | limit"
        " | zone | override",
    ),
    Column("reservation_id", Text, nullable=True),
    Column("scope", Text, nullable=False),
    # Added to `used` and `held` of every one of `rows`, by its meter.
    Column("used_tokens", BigInteger, nullable=False),
    Column("used_weighted", BigInteger, nullable=False),
    Column("used_usd", BigInteger, nullable=False),
    Column("held_tokens", BigInteger, nullable=False),
    Column("held_weighted", BigInteger, nullable=False),
    Column("held_usd", BigInteger, nullable=False),
    Column("overrun", BigInteger, nullable=False, comment="tokens charged beyond the hold or the limit"),
    Column("rows", Text, nullable=False, comment="as in reservations"),
    Column("detail", Text, nullable=False, comment="JSON object, by kind"),
    Column("note", Text, nullable=False),
    # SQLite does not repeat the former, and keeps the latter's bytes; see `budgets.entries.digits`.
    Column("prev_hash", Text, nullable=False, comment="hash of the organisation's entry before this one"),
    Column("hash", Text, nullable=False),
    # One for all who read an organisation's, in which `at_ns` never falls while `seq` grows: every index more
    # is a page more that each commit writes, and every column more in it another one.
    Index(None, "organisation", "at_ns"),
    Index(
        "ix_entries_rules",
        "seq",
        sqlite_where=text("kind IN ('limit', 'zone', 'override')"),
        postgresql_where=text("kind IN ('limit', 'zone', 'override')"),
    ),
    Index(
        "ix_entries_overrun",
        "overrun",
        sqlite_where=text("overrun > 0"),
        postgresql_where=text("overrun > 0"),
    ),
    # A number that was given once is never given again, even if the last entry were deleted.
    sqlite_autoincrement=True,
)

tenants = Table(
    "tenants",
    metadata,
    Column("scope", Text, primary_key=True, comment="an organisation"),
    Column("time_zone", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
)

overrides = Table(
    "overrides",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False, comment="amount | approval | emergency"),
    Column("scope", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("amount", BigInteger, nullable=False, comment="beyond the limit"),
    Column("state", Text, nullable=False, comment="requested | approved | denied | revoked"),
    Column("requester", Text, nullable=False),
    Column("approver", Text, nullable=True),
    Column("reason", Text, nullable=False),
    Column("requested_ns", BigInteger, nullable=False),
    Column("decided_ns", BigInteger, nullable=True),
    Column("expires_ns", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="amount"),
    CheckConstraint("state IN ('requested', 'approved', 'denied', 'revoked')", name="state"),
    Index(None, "scope"),
)

outside_calls = Table(
    "outside_calls",
    metadata,
    Column("decision_id", Text, primary_key=True, comment="and the id of the reservation"),
    Column("scope", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("facts", Text, nullable=False, comment="JSON object: what was decided and held"),
    Column("created_ns", BigInteger, nullable=False),
    Column("taken_by", Text, nullable=True, comment="execution | report"),
    Index(None, "created_ns"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False, comment="digest of the request that the key stands for"),
    Column("reservation_id", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Index(None, "created_ns"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("window_start_s", BigInteger, primary_key=True),
    Column("percent", Integer, primary_key=True, comment="the threshold; each fires once per window"),
    Column("at_ns", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("limit_amount", BigInteger, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True),
    Column("organisation", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="budget.threshold, ..."),
    Column("at_ns", BigInteger, nullable=False),
    Column("payload", Text, nullable=False, comment="JSON object"),
    Column("attempts", Integer, nullable=False),
    Column("next_ns", BigInteger, nullable=False, comment="not to be tried before"),
    Column("delivered_ns", BigInteger, nullable=True),
    Column("last_error", Text, nullable=True),
    Index(
        "ix_outbox_waiting",
        "next_ns",
        sqlite_where=text("delivered_ns IS NULL"),
        postgresql_where=text("delivered_ns IS NULL"),
    ),
    sqlite_autoincrement=True,
)

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("requests_per_minute", BigInteger, nullable=True),
    Column("tokens_per_minute", BigInteger, nullable=True),
    Column("concurrent", BigInteger, nullable=True),
    Column("version", Integer, nullable=False),
    Column("author", Text, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
)

# Of the next two SQLite, which has one owner, makes no use.

ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("organisation", Text, primary_key=True, comment="whoever changes its books locks this row first"),
    Column("version", BigInteger, nullable=False, comment="of its limits, overrides and calendar"),
    Column("windows", Text, nullable=True, comment="bounds of the open windows in seconds, as {1,2,...}"),
    Column("contended_until_ns", BigInteger, nullable=False, comment="until then somebody waits for tokens"),
    postgresql_with={"fillfactor": 50},
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("seen_ns", BigInteger, nullable=False, comment="its last sign of life, by the store's clock"),
)

# --- metering ------------------------------------------------------------------------------------------

outcomes = Table(
    "outcomes",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("at_ns", BigInteger, nullable=False, comment="when the request ended, epoch nanoseconds"),
    Column("organisation", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("decision_id", Text, nullable=True),
    Column("task_type", Text, nullable=True),
    Column("task_id", Text, nullable=True),
    Column("worker", Text, nullable=True),
    Column("session", Text, nullable=True),
    Column("policy", Text, nullable=True),
    Column("complexity", Float, nullable=True),
    Column("stream", Boolean, nullable=False),
    Column("tier", Text, nullable=True),
    Column("deployment", Text, nullable=True),
    Column("model", Text, nullable=True),
    Column("status", Text, nullable=False, comment="ok | cut | failed | cancelled | refused"),
    Column("attempts", Integer, nullable=False),
    Column("fallbacks", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("usage_source", Text, nullable=True, comment="engine | counted | ceiling"),
    Column("weighted_tokens", BigInteger, nullable=False, server_default="0"),
    Column("usd_micros", BigInteger, nullable=False, server_default="0"),
    Column("latency_ms", Float, nullable=True),
    Column("first_token_ms", Float, nullable=True),
    Column("error_code", Text, nullable=True),
    Column("saved_device_ns", BigInteger, nullable=True, comment="by the cache; NULL: an engine was asked"),
    Column("reasons", Text, nullable=False, comment="JSON list of {code, text}"),
    # Of the attempt that served it, whose tier and status stand above; NULL: none, or it stands below.
    Column("devices", Text, nullable=True, comment="comma separated; empty for remote services"),
    Column("gpu", Boolean, nullable=True),
    Column("dispatched_ns", BigInteger, nullable=True, comment="epoch nanoseconds"),
    Column("served_ns", BigInteger, nullable=True, comment="when the attempt ended, epoch nanoseconds"),
    Column("device_ns", BigInteger, nullable=True, comment="attributed, summed over the devices"),
    Column("engine_prompt_tokens", BigInteger, nullable=True, comment="NULL: only a ceiling is known"),
    Column("engine_completion_tokens", BigInteger, nullable=True, comment="likewise"),
    Index(None, "at_ns"),
    Index(None, "tier", "dispatched_ns"),
)

# Those that served nobody. Rows from before 0013 also tell of those that did.

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", Text, ForeignKey("outcomes.request_id", ondelete="CASCADE"), primary_key=True),
    Column("attempt_id", Text, primary_key=True),
    Column("tier", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("devices", Text, nullable=False, comment="comma separated; empty for remote services"),
    Column("model", Text, nullable=False),
    Column("gpu", Boolean, nullable=False),
    Column("dispatched_ns", BigInteger, nullable=False, comment="epoch nanoseconds"),
    Column("ended_ns", BigInteger, nullable=False, comment="epoch nanoseconds"),
    Column("device_ns", BigInteger, nullable=False, comment="attributed, summed over the devices"),
    Column("prompt_tokens", BigInteger, nullable=True),
    Column("completion_tokens", BigInteger, nullable=True),
    Column("status", Text, nullable=False),
    Column("error_code", Text, nullable=True),
    Index(None, "tier", "dispatched_ns"),
)

device_minutes = Table(
    "device_minutes",
    metadata,
    Column("device", Text, primary_key=True),
    Column("minute", BigInteger, primary_key=True, comment="minutes since 1970 in UTC"),
    Column("busy_ns", BigInteger, nullable=False),
    Index(None, "minute"),
)
