"""The ledger's statements on SQLite, as its operations run them on the writer thread."""

from functools import cache


@cache
def balances(count: int) -> str:
    """Return the statement that reads so many counters at once: (position, used, held) of those there are.

    One statement for all, since each one gives up the interpreter's lock and has to win it back.
    """
    one = (
        "SELECT {}, used, held FROM counters"
        " WHERE scope = ? AND meter = ? AND window = ? AND subject = ? AND window_start_s = ?"
    )
    return " UNION ALL ".join(one.format(position) for position in range(count))


@cache
def add_to_counters(count: int) -> str:
    """Return the statement that adds to so many counters at once, made where they are missing."""
    values = ",\n           ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * count)
    return f"""
    INSERT INTO counters (scope, meter, window, subject, window_start_s, window_end_s, used, held)
    VALUES {values}
        ON CONFLICT (scope, meter, window, subject, window_start_s)
        DO UPDATE SET used = counters.used + excluded.used,
                      held = counters.held + excluded.held
"""  # noqa: S608 - placeholders only


def _values(columns: int, count: int) -> str:
    """Return placeholders for so many rows."""
    row = f"({', '.join('?' * columns)})"
    return ",\n           ".join([row] * count)


@cache
def enter_counters(count: int) -> str:
    """Return the statement that puts what stands in so many counters."""
    return f"""
    INSERT INTO counters (scope, meter, window, subject, window_start_s, window_end_s, used, held)
    VALUES {_values(8, count)}
        ON CONFLICT (scope, meter, window, subject, window_start_s)
        DO UPDATE SET used = excluded.used,
                      held = excluded.held
"""  # noqa: S608 - placeholders only


@cache
def insert_reservations(count: int) -> str:
    """Return the statement that inserts so many reservations, whatever has become of them already.

    Whoever runs it undoes all of it if it fails, so SQLite need not be able to: no copies of pages.
    """
    return f"""
    INSERT OR FAIL
      INTO reservations (id, organisation, scope, tokens, weighted_tokens, usd_micros, max_output,
                         priority, state, charged_tokens, charged_weighted, charged_usd, remaining,
                         owner, decision_id, created_ns, expires_ns, closed_ns, rows)
    VALUES {_values(19, count)}
"""  # noqa: S608 - placeholders only


@cache
def update_reservations(count: int) -> str:
    """Return the statement that tells of so many reservations what they hold and how they ended.

    It would insert what is not there, but each of them is: two thirds of an UPDATE's time, and one statement.
    """
    values = ",\n           ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', '', 0, '', '', 0, '')"] * count)
    return f"""
    INSERT INTO reservations (id, tokens, weighted_tokens, usd_micros, state, charged_tokens,
                              charged_weighted, charged_usd, remaining, closed_ns,
                              organisation, scope, max_output, priority, owner, created_ns, rows)
    VALUES {values}
        ON CONFLICT (id)
        DO UPDATE SET tokens = excluded.tokens,
                      weighted_tokens = excluded.weighted_tokens,
                      usd_micros = excluded.usd_micros,
                      state = excluded.state,
                      charged_tokens = excluded.charged_tokens,
                      charged_weighted = excluded.charged_weighted,
                      charged_usd = excluded.charged_usd,
                      remaining = excluded.remaining,
                      closed_ns = excluded.closed_ns
"""  # noqa: S608 - our own text


@cache
def append_entries(count: int) -> str:
    """Return the statement that appends so many entries, in their order.

    Whoever runs it undoes all of it if it fails, so SQLite need not be able to: no copies of pages.
    """
    return f"""
    INSERT OR FAIL
      INTO entries (organisation, at_ns, kind, reservation_id, scope, used_tokens, used_weighted,
                    used_usd, held_tokens, held_weighted, held_usd, overrun, rows, detail, note,
                    prev_hash, hash)
    VALUES {_values(17, count)}
"""  # noqa: S608 - placeholders only


_TOLD = "coalesce((SELECT text FROM row_texts WHERE name = {0}), {0})"
_ROWS = _TOLD.format("reservations.rows")

RESERVATION = f"""
    SELECT scope, tokens, weighted_tokens, usd_micros, max_output, priority, state,
           charged_tokens, charged_weighted, charged_usd, remaining, expires_ns, {_ROWS}
      FROM reservations
     WHERE id = ?
"""  # noqa: S608 - our own text

ABANDONED_RESERVATIONS = """
    SELECT id
      FROM reservations
     WHERE state = 'held'
       AND owner <> ?
       AND (expires_ns IS NULL OR expires_ns <= ?)
     ORDER BY created_ns, id
"""

EXPIRED_RESERVATIONS = """
    SELECT id
      FROM reservations
     WHERE state = 'held'
       AND expires_ns IS NOT NULL
       AND expires_ns <= ?
     ORDER BY expires_ns, id
"""

ADOPT_ROW = """
    UPDATE reservations
       SET rows = ?
     WHERE id = ?
"""

LAST_OPENING = """
    SELECT coalesce(max(seq), 0)
      FROM entries
     WHERE organisation = ?
       AND at_ns >= ?
       AND kind = 'open'
       AND scope = ?
       AND rows = ?
"""

_SINCE = """
     WHERE entries.organisation = ?
       AND entries.at_ns >= ?
       AND entries.seq > ?
       AND entries.kind = '%s'
       AND (entries.scope = ? OR (entries.scope >= ? AND entries.scope < ?))
"""

_ADMITTED_SINCE = (
    """
      FROM entries
      JOIN reservations
        ON reservations.id = entries.reservation_id
"""
    + _SINCE % "reserve"
)

# What has ended is added up where it lies: an organisation may have millions of them.
ENDED_SINCE = f"""
    SELECT {_ROWS}, sum(reservations.charged_tokens), sum(reservations.charged_weighted),
           sum(reservations.charged_usd)
    {_ADMITTED_SINCE}
       AND reservations.state IN ('settled', 'released')
     GROUP BY reservations.rows
"""

CHANGEABLE_SINCE = f"""
    SELECT reservations.id, reservations.state, {_ROWS},
           reservations.tokens, reservations.weighted_tokens, reservations.usd_micros,
           reservations.charged_tokens, reservations.charged_weighted, reservations.charged_usd
    {_ADMITTED_SINCE}
       AND reservations.state IN ('held', 'expired_charged')
     ORDER BY entries.seq
"""

RECORDED_SINCE = f"""
    SELECT {_TOLD.format("entries.rows")},
           sum(entries.used_tokens), sum(entries.used_weighted), sum(entries.used_usd)
      FROM entries
    {_SINCE % "record"}
     GROUP BY entries.rows
"""  # noqa: S608 - our own text

LAST_HASH = """
    SELECT hash
      FROM entries
     WHERE organisation = ?
     ORDER BY at_ns DESC, seq DESC
     LIMIT 1
"""

APPEND_ENTRY = """
    INSERT INTO entries (organisation, at_ns, kind, reservation_id, scope, used_tokens, used_weighted,
                         used_usd, held_tokens, held_weighted, held_usd, overrun, rows, detail, note,
                         prev_hash, hash)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

NEXT_EPOCH = """
    INSERT INTO meta (key, value)
    VALUES ('ledger_epoch', '1')
        ON CONFLICT (key)
        DO UPDATE SET value = CAST(value AS INTEGER) + 1
    RETURNING CAST(value AS INTEGER)
"""

LIMITS = """
    SELECT scope, meter, window, amount, allowance
      FROM limits
"""

SET_LIMIT = """
    INSERT INTO limits (scope, meter, window, amount, allowance, version, author, updated_ns)
    VALUES (?, ?, ?, ?, ?, 1, ?, ?)
        ON CONFLICT (scope, meter, window)
        DO UPDATE SET amount = excluded.amount,
                      allowance = excluded.allowance,
                      version = limits.version + 1,
                      author = excluded.author,
                      updated_ns = excluded.updated_ns
    RETURNING version
"""

CLEAR_LIMIT = """
    DELETE FROM limits
     WHERE scope = ?
       AND meter = ?
       AND window = ?
"""

SET_ZONE = """
    INSERT INTO tenants (scope, time_zone, author, updated_ns)
    VALUES (?, ?, ?, ?)
        ON CONFLICT (scope)
        DO UPDATE SET time_zone = excluded.time_zone,
                      author = excluded.author,
                      updated_ns = excluded.updated_ns
"""

OVERRIDES_IN_FORCE = """
    SELECT kind, scope, meter, window, amount, expires_ns
      FROM overrides
     WHERE state = 'approved'
       AND expires_ns > ?
"""

OVERRIDE = """
    SELECT id, kind, scope, meter, window, amount, state, requester, approver, reason,
           requested_ns, expires_ns
      FROM overrides
     WHERE id = ?
"""

INSERT_OVERRIDE = """
    INSERT INTO overrides (id, kind, scope, meter, window, amount, state, requester, approver, reason,
                           requested_ns, decided_ns, expires_ns)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

DECIDE_OVERRIDE = """
    UPDATE overrides
       SET state = ?,
           approver = ?,
           decided_ns = ?
     WHERE id = ?
"""

IDEMPOTENCY_KEY = """
    SELECT fingerprint, reservation_id, created_ns
      FROM idempotency_keys
     WHERE scope = ?
       AND key = ?
"""

PUT_IDEMPOTENCY_KEY = """
    INSERT INTO idempotency_keys (scope, key, fingerprint, reservation_id, created_ns)
    VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (scope, key)
        DO UPDATE SET fingerprint = excluded.fingerprint,
                      reservation_id = excluded.reservation_id,
                      created_ns = excluded.created_ns
"""

FORGET_IDEMPOTENCY_KEYS = """
    DELETE FROM idempotency_keys
     WHERE created_ns < ?
"""

INSERT_ALERT = """
    INSERT INTO alerts (scope, meter, window, subject, window_start_s, percent, at_ns, used, limit_amount)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT DO NOTHING
"""

# Those that a raise puts out of reach are set aside under its instant: see `budgets.alerts`. Where a clock
# stands still, a nanosecond for each that was set aside before keeps them apart.
REARM_ALERTS = """
    UPDATE alerts
       SET subject = CAST(? + (SELECT count(*)
                                 FROM alerts AS before
                                WHERE before.scope = alerts.scope
                                  AND before.meter = alerts.meter
                                  AND before.window = alerts.window
                                  AND before.window_start_s = alerts.window_start_s
                                  AND before.percent = alerts.percent
                                  AND before.subject <> '') AS TEXT)
     WHERE scope = ?
       AND meter = ?
       AND window = ?
       AND subject = ''
       AND window_start_s = ?
       AND percent > ?
       AND limit_amount < ?
"""

INSERT_OUTBOX = """
    INSERT INTO outbox (organisation, kind, at_ns, payload, attempts, next_ns)
    VALUES (?, ?, ?, ?, 0, ?)
"""

CURRENT_COUNTERS = """
    SELECT scope, meter, window, subject, window_start_s, window_end_s,
           EXISTS (SELECT 1
                     FROM alerts
                    WHERE alerts.scope = counters.scope
                      AND alerts.meter = counters.meter
                      AND alerts.window = counters.window
                      AND alerts.subject = ''
                      AND alerts.window_start_s = counters.window_start_s)
      FROM counters
     WHERE window IN ('daily', 'weekly', 'monthly', 'total')
       AND window_end_s > ?
       AND window_start_s <= ?
"""
