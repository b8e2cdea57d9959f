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
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
_LARGEST_TOTAL = 2**62

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
)

# --- budgets -------------------------------------------------------------------------------------------

limits = Table(
    "limits",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("amount", BigInteger, nullable=True, comment="NULL: explicitly unlimited"),
    Column("version", Integer, nullable=False),
    Column("author", Text, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="amount"),
)

counters = Table(
    "counters",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("window_start_s", BigInteger, primary_key=True),
    Column("window_end_s", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    CheckConstraint(f"used BETWEEN 0 AND {_LARGEST_TOTAL}", name="used"),
    CheckConstraint(f"held BETWEEN 0 AND {_LARGEST_TOTAL}", name="held"),
    Index(None, "window", "window_end_s"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("organisation", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("state", Text, nullable=False, comment="held | settled | released | expired_charged"),
    Column("charged", BigInteger, nullable=False, comment="0 while held"),
    Column("remaining", BigInteger, nullable=True, comment="what the tightest row had left at the end"),
    Column("epoch", Integer, nullable=False, comment="which opening of the store made it"),
    Column("created_ns", BigInteger, nullable=False),
    Column("closed_ns", BigInteger, nullable=True),
    Column(
        "rows", Text, nullable=False, comment="JSON list of [scope, window, window_start_s, window_end_s]"
    ),
    CheckConstraint("state IN ('held', 'settled', 'released', 'expired_charged')", name="state"),
    # Recovery and reconciliation look only for what is open.
    Index(
        "ix_reservations_open",
        "epoch",
        sqlite_where=text("state = 'held'"),
        postgresql_where=text("state = 'held'"),
    ),
)

entries = Table(
    "entries",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True),
    Column("organisation", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column(
        "kind", Text, nullable=False, comment="reserve | settle | release | expire | record | correct | limit"
    ),
    Column("reservation_id", Text, nullable=True),
    Column("scope", Text, nullable=False),
    Column("meter", Text, nullable=False),
    Column("used_delta", BigInteger, nullable=False, comment="added to `used` of every one of `rows`"),
    Column("held_delta", BigInteger, nullable=False, comment="added to `held` of every one of `rows`"),
    Column("overrun", BigInteger, nullable=False, comment="tokens charged beyond the hold or the limit"),
    Column("rows", Text, nullable=False, comment="as in reservations"),
    Column(
        "detail", Text, nullable=False, comment="JSON object, by kind: the usage, or the limit that was set"
    ),
    Column("note", Text, nullable=False),
    Column("prev_hash", Text, nullable=False, comment="hash of the organisation's entry before this one"),
    Column("hash", Text, nullable=False),
    Index(None, "organisation", "seq"),
    Index(None, "organisation", "at_ns"),
    Index(
        "ix_entries_overrun",
        "overrun",
        sqlite_where=text("overrun > 0"),
        postgresql_where=text("overrun > 0"),
    ),
    # A number that was given once is never given again, even if the last entry were deleted.
    sqlite_autoincrement=True,
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
    Column("latency_ms", Float, nullable=True),
    Column("first_token_ms", Float, nullable=True),
    Column("error_code", Text, nullable=True),
    Column("reasons", Text, nullable=False, comment="JSON list of {code, text}"),
    Index(None, "at_ns"),
    Index(None, "organisation", "at_ns"),
    Index(None, "scope", "at_ns"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    Column("request_id", Text, ForeignKey("outcomes.request_id", ondelete="CASCADE"), nullable=False),
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
    Index(None, "request_id"),
    Index(None, "dispatched_ns"),
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
