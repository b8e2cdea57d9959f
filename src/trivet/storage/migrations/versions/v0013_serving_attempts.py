"""The attempt that served a request stands in the request's row; the others have rows of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("devices", sa.Text, "comma separated; empty for remote services"),
    ("gpu", sa.Boolean, None),
    ("dispatched_ns", sa.BigInteger, "epoch nanoseconds"),
    ("served_ns", sa.BigInteger, "when the attempt ended, epoch nanoseconds"),
    ("device_ns", sa.BigInteger, "attributed, summed over the devices"),
    ("engine_prompt_tokens", sa.BigInteger, "NULL: only a ceiling is known"),
    ("engine_completion_tokens", sa.BigInteger, "likewise"),
)
_APART = """
    INSERT INTO attempts (request_id, attempt_id, tier, deployment, devices, model, gpu, dispatched_ns,
                          ended_ns, device_ns, prompt_tokens, completion_tokens, status, error_code)
    SELECT request_id, request_id, tier, deployment, devices, model, gpu, dispatched_ns,
           served_ns, device_ns, engine_prompt_tokens, engine_completion_tokens, status, error_code
      FROM outcomes
     WHERE dispatched_ns IS NOT NULL
"""


def upgrade() -> None:
    """Make room for it. What there is stays among the attempts."""
    for name, kind, comment in _COLUMNS:
        op.add_column("outcomes", sa.Column(name, kind(), nullable=True, comment=comment))
    op.create_index("ix_outcomes_tier_dispatched_ns", "outcomes", ["tier", "dispatched_ns"])


def downgrade() -> None:
    """Put it among the others."""
    op.execute(_APART)
    op.drop_index("ix_outcomes_tier_dispatched_ns", "outcomes")
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("outcomes", name)
