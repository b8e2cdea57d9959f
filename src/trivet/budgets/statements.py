"""The ledger's statements on SQLite, as its operations run them on the writer thread."""

BALANCE = """
    SELECT coalesce(counters.used, 0),
           coalesce(counters.held, 0),
           limits.scope IS NOT NULL,
           limits.amount
      FROM (SELECT 1)
      LEFT JOIN counters
        ON counters.scope = :scope
       AND counters.meter = :meter
       AND counters.window = :window
       AND counters.window_start_s = :start_s
      LEFT JOIN limits
        ON limits.scope = :scope
       AND limits.meter = :meter
       AND limits.window = :window
"""

ADD_TO_COUNTER = """
    INSERT INTO counters (scope, meter, window, window_start_s, window_end_s, used, held)
    VALUES (:scope, :meter, :window, :start_s, :end_s, :used, :held)
        ON CONFLICT (scope, meter, window, window_start_s)
        DO UPDATE SET used = used + excluded.used,
                      held = held + excluded.held
"""

TAKE_FROM_HOLD = """
    UPDATE counters
       SET used = used + :used,
           held = held - :held
     WHERE scope = :scope
       AND meter = :meter
       AND window = :window
       AND window_start_s = :start_s
"""

RESERVATION = """
    SELECT scope, amount, state, charged, remaining, rows
      FROM reservations
     WHERE id = ?
"""

OPEN_RESERVATIONS_BEFORE = """
    SELECT id
      FROM reservations
     WHERE state = 'held'
       AND epoch < ?
     ORDER BY created_ns, id
"""

INSERT_RESERVATION = """
    INSERT INTO reservations (id, organisation, scope, amount, state, charged, epoch, created_ns, rows)
    VALUES (?, ?, ?, ?, 'held', 0, ?, ?, ?)
"""

CLOSE_RESERVATION = """
    UPDATE reservations
       SET state = ?,
           charged = ?,
           remaining = ?,
           closed_ns = ?
     WHERE id = ?
       AND state = 'held'
"""

LAST_HASH = """
    SELECT hash
      FROM entries
     WHERE organisation = ?
     ORDER BY seq DESC
     LIMIT 1
"""

APPEND_ENTRY = """
    INSERT INTO entries (organisation, at_ns, kind, reservation_id, scope, meter, used_delta, held_delta,
                         overrun, rows, detail, note, prev_hash, hash)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

NEXT_EPOCH = """
    INSERT INTO meta (key, value)
    VALUES ('ledger_epoch', '1')
        ON CONFLICT (key)
        DO UPDATE SET value = CAST(value AS INTEGER) + 1
    RETURNING CAST(value AS INTEGER)
"""

SET_LIMIT = """
    INSERT INTO limits (scope, meter, window, amount, version, author, updated_ns)
    VALUES (?, ?, ?, ?, 1, ?, ?)
        ON CONFLICT (scope, meter, window)
        DO UPDATE SET amount = excluded.amount,
                      version = version + 1,
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
