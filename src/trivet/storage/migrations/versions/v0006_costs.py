"""What a request was charged in weighted tokens and dollars, beside its outcome."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; earlier requests count as free."""
    for name in ("weighted_tokens", "usd_micros"):
        op.add_column("outcomes", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    """Drop them."""
    for name in ("usd_micros", "weighted_tokens"):
        op.drop_column("outcomes", name)
