"""The state of a reservation is checked in words that SQLite checks more quickly."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_AMONG = "state IN ('held', 'settled', 'released', 'expired_charged')"
_EITHER = "state = 'held' OR state = 'settled' OR state = 'released' OR state = 'expired_charged'"


def upgrade() -> None:
    """Name one after the other: SQLite builds a list anew for every row."""
    _say(_AMONG, _EITHER)


def downgrade() -> None:
    """List them."""
    _say(_EITHER, _AMONG)


def _say(former: str, now: str) -> None:
    """Check by other words. SQLite cannot change a check: there it is another table."""
    bind = op.get_bind()
    if bind.dialect.name != "sqlite":
        op.drop_constraint(op.f("ck_reservations_state"), "reservations", type_="check")
        op.create_check_constraint(op.f("ck_reservations_state"), "reservations", now)
        return
    parts = bind.execute(
        sa.text(
            "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = 'reservations' AND sql IS NOT NULL"
        )
    ).fetchall()
    for kind, name, _ in parts:
        if kind == "index":
            op.drop_index(name, "reservations")
    op.rename_table("reservations", "reservations_before")
    for kind, _, sql in sorted(parts, reverse=True):  # the table first
        bind.exec_driver_sql(sql.replace(former, now))
        if kind == "table":
            bind.exec_driver_sql("INSERT INTO reservations SELECT * FROM reservations_before")
            op.drop_table("reservations_before")
