"""What a batch's idempotency key stood for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no earlier batch had a key."""
    comment = "of the file, where an idempotency key made the id"
    op.add_column("batches", sa.Column("fingerprint", sa.Text(), nullable=True, comment=comment))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("batches", "fingerprint")
