"""What device time a kept answer saved, beside its outcome."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no earlier request was answered from a cache."""
    op.add_column(
        "outcomes",
        sa.Column(
            "saved_device_ns",
            sa.BigInteger(),
            nullable=True,
            comment="by the cache; NULL: an engine was asked",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("outcomes", "saved_device_ns")
