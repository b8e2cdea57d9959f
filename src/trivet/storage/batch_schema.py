"""The tables of batches: files of requests, and their lines, the only place where prompts are stored."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from trivet.storage.metadata import metadata

batches = Table(
    "batches",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("key_id", Text, nullable=False, comment="as whose key's requests its lines run"),
    Column("label", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("deadline_ns", BigInteger, nullable=False),
    Column("started_ns", BigInteger, nullable=True),
    Column("ended_ns", BigInteger, nullable=True),
    Column("kept_until_ns", BigInteger, nullable=True, comment="then all of it is removed"),
    Column("runner", Text, nullable=True, comment="the process that works it off"),
    Column("lease_ns", BigInteger, nullable=True, comment="until then it is that process's"),
    Column("fingerprint", Text, nullable=True, comment="of the file, where an idempotency key made the id"),
    CheckConstraint(
        "status IN ('arriving', 'queued', 'in_progress', 'cancelling', 'completed', 'cancelled', 'expired')",
        name="status",
    ),
    Index(None, "status"),
    Index(None, "scope", "created_ns"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.batch_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, comment="of the line in its file, from 1"),
    Column("custom_id", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False, comment="how often it was begun"),
    Column("deployment", Text, nullable=True, comment="chosen, then the one that answered"),
    Column("request_id", Text, nullable=True, comment="of its last try"),
    Column("body", Text, nullable=True, comment="the request, until the line has ended"),
    Column("status_code", Integer, nullable=True, comment="NULL: it was never run"),
    Column("answer", Text, nullable=True, comment="JSON"),
    Column("ended_ns", BigInteger, nullable=True),
    CheckConstraint("state IN ('waiting', 'running', 'completed', 'failed', 'abandoned')", name="state"),
    Index("ix_batch_lines_batch_id_state_deployment", "batch_id", "state", "deployment"),
)
