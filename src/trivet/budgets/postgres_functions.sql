-- The ledger's verbs on PostgreSQL. One call applies a batch of operations in one transaction; a lone operation is
-- a batch of one. Names begin with "ledger__", which becomes "ledger_<digest of this file>_" when they are
-- installed, so that replicas of two versions can run side by side.
--
-- Locks: one row of ledger_heads for each organisation of the batch, in the order of their names, before anything
-- is read. Every change of an organisation's counters, reservations, limits and chain happens under that lock, so
-- no two transactions ever wait for each other in a circle. The rules are those of budgets/admission.py; what is
-- refused is told with the balances of that moment, and Python finds the words.

CREATE TYPE ledger__answer AS (
    n int,
    status text,        -- done | refused | exists | repeated | ended | missing | counters | stale | rows
    granted bigint,     -- output tokens
    at_ns bigint,
    used bigint[],      -- what stands in the plan's limited rows: before a hold, after everything else
    held bigint[],
    facts jsonb
);

CREATE FUNCTION ledger__fit(_left numeric, _output bigint, _max_output bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN _left < 0 THEN -1
        WHEN _output <= _left THEN _max_output
        ELSE div(_left * _max_output, _output)::bigint
    END
$$;

-- The output tokens to grant; -1: contended; -2: refused otherwise. See `admission.grant`, whose twin this is.
CREATE FUNCTION ledger__grant(
    _used bigint[], _held bigint[], _ceilings bigint[], _meters int[], _prompt bigint[], _output bigint[],
    _max_output bigint, _min_output bigint, _final boolean
) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    free bigint := _max_output;
    whole bigint := _max_output;
    settled bigint := _max_output;
    room numeric;
    more bigint;
BEGIN
    FOR i IN 1 .. cardinality(_meters) LOOP
        room := _ceilings[i]::numeric - _prompt[_meters[i]];
        more := _output[_meters[i]];
        free := least(free, ledger__fit(room - _used[i] - _held[i], more, _max_output));
        settled := least(settled, ledger__fit(room - _used[i], more, _max_output));
        whole := least(whole, ledger__fit(room, more, _max_output));
    END LOOP;
    IF free >= _max_output THEN
        RETURN _max_output;
    ELSIF whole < _min_output THEN
        RETURN -2;
    ELSIF free >= _min_output AND (_final OR settled < _max_output) THEN
        RETURN free;
    ELSIF settled >= _min_output THEN
        RETURN -1;
    END IF;
    RETURN -2;
END
$$;

CREATE FUNCTION ledger__instant(_s numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN _s < 253402300800
        THEN to_char(to_timestamp(_s) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')
    END
$$;

-- Enter the thresholds that use of one row has crossed, once per window; see `Books.announce`.
CREATE FUNCTION ledger__announce(
    _organisation text, _scope text, _meter text, _window text, _subject text, _start bigint, _end bigint,
    _before numeric, _used bigint, _limit bigint, _ceiling bigint, _thresholds int[], _now bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    percent int;
BEGIN
    FOREACH percent IN ARRAY _thresholds LOOP
        CONTINUE WHEN NOT (_before * 100 < percent::numeric * _limit AND percent::numeric * _limit <= _used::numeric * 100);
        INSERT INTO alerts (scope, meter, "window", subject, window_start_s, percent, at_ns, used, limit_amount)
        VALUES (_scope, _meter, _window, _subject, _start, percent, _now, _used, _limit)
        ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO outbox (organisation, kind, at_ns, payload, attempts, next_ns)
        VALUES (
            _organisation, 'budget.threshold', _now,
            jsonb_build_object(
                'scope', _scope, 'meter', _meter, 'window', _window,
                'window_start', ledger__instant(_start), 'resets_at', ledger__instant(_end),
                'threshold', percent, 'used', _used, 'limit', _limit,
                'percent_used', CASE WHEN _ceiling = 0 THEN 100 ELSE round(100.0 * _used / _ceiling, 2) END,
                'at', ledger__instant(div(_now, 1000000000))
            )::text,
            0, _now
        );
    END LOOP;
END
$$;

-- Write an entry behind the one whose hash is given, and return its own; see `entries.chained`.
CREATE FUNCTION ledger__append(
    _previous text, _organisation text, _now bigint, _kind text, _reservation text, _scope text, _used bigint[],
    _held bigint[], _overrun bigint, _rows text, _detail text, _note text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    this_hash text := encode(sha256(convert_to(concat_ws(
        chr(31), _previous, _organisation, _now, _kind, coalesce(_reservation, ''), _scope, _used[1], _used[2],
        _used[3], _held[1], _held[2], _held[3], _overrun, _rows, _detail, _note
    ), 'UTF8')), 'hex');
BEGIN
    INSERT INTO entries (
        organisation, at_ns, kind, reservation_id, scope, used_tokens, used_weighted, used_usd, held_tokens,
        held_weighted, held_usd, overrun, rows, detail, note, prev_hash, hash
    ) VALUES (
        _organisation, _now, _kind, _reservation, _scope, _used[1], _used[2], _used[3], _held[1], _held[2], _held[3],
        _overrun, _rows, _detail, _note, _previous, this_hash
    );
    RETURN this_hash;
END
$$;

-- What is asked:
--   _at_ns           the instant; NULL: this server's clock, which is how it always is but for tests
--   _owner           the replica that holds
--   _organisations   [{organisation, version, windows}]: whose, and what the caller's plans rest on
--   _scopes .. _ends the distinct counters of the batch, in parallel
--   _texts, _untils  of each plan: its rows as they are stored, and the instant at which its caps end
--   _row_from, _rows of each plan, from where on its rows stand in _rows; these are places in the counters
--   _cap_from ..     likewise its caps: places in the counters, 0 being a cap on the single request; meters by number;
--   _criticals       whether of a calendar window; limits; what overrides add; what critical requests may use beyond
--   _ops             what is to be done, in this order; `first`: what stands beside it is written, so it must be done
--                    as its reservation's first end, or all of the call is undone
CREATE FUNCTION ledger__apply(
    _at_ns bigint, _owner text, _organisations jsonb,
    _scopes text[], _meters text[], _windows text[], _subjects text[], _starts bigint[], _ends bigint[],
    _texts text[], _untils bigint[], _row_from int[], _rows int[], _cap_from int[], _caps int[], _cap_meters int[],
    _calendars boolean[], _limits bigint[], _grants bigint[], _criticals bigint[], _ops jsonb, _thresholds int[]
) RETURNS SETOF ledger__answer LANGUAGE plpgsql AS $$
DECLARE
    head record;
    op record;
    stored reservations%ROWTYPE;
    earlier record;
    answer ledger__answer;
    -- Of each organisation.
    names text[] := '{}';
    fresh boolean[] := '{}';
    nows bigint[] := '{}';
    hashes text[] := '{}';
    waited bigint[] := '{}';
    facts jsonb[] := '{}';
    open_windows bigint[];
    asked_windows bigint[];
    -- Of each counter.
    c_used bigint[];
    c_held bigint[];
    c_known boolean[];
    c_changed boolean[];
    meter_of int[];
    -- Of the operation at hand.
    rows_text text;
    first_row int;
    last_row int;
    first_cap int;
    last_cap int;
    n int;
    b_used bigint[];
    b_held bigint[];
    ceiling bigint;
    added bigint[];
    now bigint;
    org int;
    k int;
    m int;
    u bigint;
    h bigint;
    ceilings bigint[];
    fits boolean;
    refuse_percent int;
    blocked boolean;
    output bigint;
    amounts bigint[];
    more bigint[];
    own bigint[];
    over bigint[];
    room_left bigint;
    next_state text;
    e_kind text;
    e_used bigint[];
    e_held bigint[];
    e_overrun bigint;
    e_detail text;
    e_note text;
    past record;
    past_sum bigint[];
    nothing CONSTANT bigint[] := '{0,0,0}';
    kept_ns CONSTANT bigint := 86400000000000;
    waiting_ns CONSTANT bigint := 3000000000;
BEGIN
    INSERT INTO ledger_heads (organisation, version, contended_until_ns)
    SELECT asked.organisation, 0, 0
      FROM jsonb_to_recordset(_organisations) AS asked (organisation text)
     WHERE NOT EXISTS (SELECT FROM ledger_heads WHERE ledger_heads.organisation = asked.organisation)
     ORDER BY asked.organisation
        ON CONFLICT DO NOTHING;
    FOR head IN
        SELECT ledger_heads.*, asked.version AS known_version, asked.windows AS asked_windows
          FROM jsonb_to_recordset(_organisations) AS asked (organisation text, version bigint, windows text)
          JOIN ledger_heads
            ON ledger_heads.organisation = asked.organisation
         ORDER BY ledger_heads.organisation COLLATE "C"
           FOR UPDATE OF ledger_heads
    LOOP
        names := names || head.organisation;
        waited := waited || head.contended_until_ns;
        SELECT entries.hash, entries.at_ns INTO earlier
          FROM entries
         WHERE entries.organisation = head.organisation
         ORDER BY entries.at_ns DESC, entries.seq DESC
         LIMIT 1;
        hashes := hashes || coalesce(earlier.hash, repeat('0', 64));
        now := greatest(
            coalesce(_at_ns, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000), earlier.at_ns
        );
        nows := nows || now;
        -- The store says which windows are open, so that no two replicas can count the same day twice.
        fits := head.version = head.known_version;
        blocked := false;
        IF head.asked_windows IS NULL THEN
            fits := false;
        ELSIF head.windows IS DISTINCT FROM head.asked_windows THEN
            open_windows := head.windows;
            asked_windows := head.asked_windows;
            FOR i IN 1 .. cardinality(asked_windows) BY 2 LOOP
                IF open_windows IS NOT NULL AND open_windows[i + 1] > now / 1000000000 THEN
                    fits := fits AND open_windows[i] = asked_windows[i]
                                 AND open_windows[i + 1] = asked_windows[i + 1];
                ELSE
                    blocked := true;
                END IF;
                fits := fits AND asked_windows[i] <= now / 1000000000 AND now / 1000000000 < asked_windows[i + 1];
            END LOOP;
            IF fits AND blocked THEN
                UPDATE ledger_heads SET windows = head.asked_windows
                 WHERE ledger_heads.organisation = head.organisation;
                head.windows := head.asked_windows;
            END IF;
        END IF;
        fresh := fresh || fits;
        facts := facts || jsonb_build_object('version', head.version, 'windows', head.windows);
    END LOOP;

    SELECT array_agg(coalesce(counters.used, 0) ORDER BY key.n),
           array_agg(coalesce(counters.held, 0) ORDER BY key.n),
           array_agg(counters.scope IS NOT NULL ORDER BY key.n),
           array_agg(false ORDER BY key.n),
           array_agg(CASE key.meter WHEN 'tokens' THEN 1 WHEN 'weighted_tokens' THEN 2 ELSE 3 END ORDER BY key.n)
      INTO c_used, c_held, c_known, c_changed, meter_of
      FROM unnest(_scopes, _meters, _windows, _subjects, _starts)
           WITH ORDINALITY AS key (scope, meter, "window", subject, start_s, n)
      LEFT JOIN counters
        ON counters.scope = key.scope
       AND counters.meter = key.meter
       AND counters."window" = key."window"
       AND counters.subject = key.subject
       AND counters.window_start_s = key.start_s;

    FOR op IN
        SELECT asked.*
          FROM jsonb_to_recordset(_ops) AS asked (
                   n int, verb text, org int, id text, scope text, plan int, first boolean, prompt bigint[],
                   output bigint[], max_output bigint, min_output bigint, priority text, final boolean,
                   refuse_percents int[], decision_id text, expires_ns bigint, idempotency_key text, fingerprint text,
                   tokens bigint, charged bigint[], earlier jsonb, detail text, clamped text, note text
               )
         ORDER BY asked.n
    LOOP
        org := op.org;
        rows_text := _texts[op.plan];
        first_row := _row_from[op.plan];
        last_row := _row_from[op.plan + 1] - 1;
        first_cap := _cap_from[op.plan];
        last_cap := _cap_from[op.plan + 1] - 1;
        now := nows[org];
        answer := ROW(op.n, 'done', NULL, now, '{}', '{}', NULL);
        IF NOT fresh[org] OR now >= _untils[op.plan] THEN
            IF op.first THEN
                -- What was written beside it went ahead, and must not stay without it.
                RAISE EXCEPTION 'the rules are others by now' USING ERRCODE = 'TRV01';
            END IF;
            answer.status := 'stale';
            answer.facts := facts[org];
            RETURN NEXT answer;
            CONTINUE;
        END IF;
        e_kind := NULL;
        e_used := nothing;
        e_held := nothing;
        past_sum := nothing;
        e_overrun := 0;
        e_detail := coalesce(op.detail, '{}');
        e_note := coalesce(op.note, '');
        stored := NULL;

        -- What stands, before a hold.
        IF op.verb <> 'reserve' AND op.verb <> 'record' OR op.idempotency_key IS NOT NULL THEN
            SELECT * INTO stored FROM reservations WHERE reservations.id = op.id;
        END IF;
        IF op.verb IN ('reserve', 'reweight') THEN
            IF op.verb = 'reserve' AND stored.id IS NOT NULL THEN
                answer.status := 'exists';
            ELSIF op.verb = 'reweight' AND stored.id IS NULL THEN
                answer.status := 'missing';
            ELSIF op.verb = 'reweight' AND stored.state <> 'held' THEN
                answer.status := 'ended';
            ELSIF op.verb = 'reweight' AND stored.rows <> rows_text THEN
                answer.status := 'rows';
            END IF;
            IF answer.status = 'done' AND op.idempotency_key IS NOT NULL THEN
                SELECT idempotency_keys.fingerprint, idempotency_keys.reservation_id, reservations.state,
                       reservations.charged_tokens, reservations.charged_weighted, reservations.charged_usd
                  INTO earlier
                  FROM idempotency_keys
                  LEFT JOIN reservations
                    ON reservations.id = idempotency_keys.reservation_id
                 WHERE idempotency_keys.scope = op.scope
                   AND idempotency_keys.key = op.idempotency_key
                   AND idempotency_keys.created_ns >= now - kept_ns;
                IF FOUND AND (
                    earlier.fingerprint <> op.fingerprint
                    OR earlier.state IS NOT NULL AND earlier.state <> 'released'
                ) THEN
                    answer.status := 'repeated';
                    answer.facts := to_jsonb(earlier);
                END IF;
            END IF;
            IF answer.status <> 'done' THEN
                IF answer.status = 'exists' THEN
                    FOR i IN first_cap .. last_cap LOOP
                        k := _caps[i];
                        answer.used := answer.used || CASE WHEN k = 0 THEN 0 ELSE c_used[k] END;
                        answer.held := answer.held || CASE WHEN k = 0 THEN 0 ELSE c_held[k] END;
                    END LOOP;
                END IF;
                IF answer.status <> 'repeated' THEN
                    answer.facts := to_jsonb(stored);
                END IF;
                RETURN NEXT answer;
                CONTINUE;
            END IF;
            more := NULL;
            IF op.verb = 'reweight' THEN
                more := ARRAY[
                    op.prompt[1] + op.output[1] - stored.tokens,
                    op.prompt[2] + op.output[2] - stored.weighted_tokens,
                    op.prompt[3] + op.output[3] - stored.usd_micros
                ];
                own := ARRAY[stored.tokens, stored.weighted_tokens, stored.usd_micros];
                op.priority := stored.priority;
            END IF;
            added := coalesce(
                more, ARRAY[op.prompt[1] + op.output[1], op.prompt[2] + op.output[2], op.prompt[3] + op.output[3]]
            );
            -- By batch, interactive, critical; NULL: policy never refuses it.
            refuse_percent := op.refuse_percents[
                CASE op.priority WHEN 'batch' THEN 1 WHEN 'interactive' THEN 2 ELSE 3 END
            ];
            fits := true;
            blocked := false;
            n := 0;
            b_used := _limits[first_cap : last_cap];
            b_held := b_used;
            ceilings := b_used;
            FOR i IN first_cap .. last_cap LOOP
                n := n + 1;
                k := _caps[i];
                m := _cap_meters[i];
                u := CASE WHEN k = 0 THEN 0 ELSE c_used[k] END;
                -- In a cap on the single request stands what the request itself holds already.
                h := CASE WHEN k > 0 THEN c_held[k] WHEN more IS NULL THEN 0 ELSE own[m] END;
                b_used[n] := u;
                b_held[n] := h;
                ceiling := _limits[i] + _grants[i] + CASE WHEN op.priority = 'critical' THEN _criticals[i] ELSE 0 END;
                ceilings[n] := ceiling;
                IF refuse_percent IS NOT NULL AND _calendars[i] THEN
                    blocked := blocked OR u::numeric * 100 >= refuse_percent::numeric * ceiling;
                END IF;
                fits := fits AND (added[m] <= 0 AND more IS NOT NULL OR u + h + added[m] <= ceiling);
            END LOOP;
            answer.used := b_used;
            answer.held := b_held;
            output := op.max_output;
            IF NOT fits THEN
                output := -2;
                IF more IS NULL THEN
                    output := ledger__grant(
                        b_used, b_held, ceilings, _cap_meters[first_cap : last_cap], op.prompt, op.output, op.max_output,
                        op.min_output, op.final
                    );
                END IF;
            END IF;
            IF output < 0 OR blocked THEN
                answer.status := 'refused';
                IF output = -1 AND waited[org] < now + waiting_ns - 1000000000 THEN
                    -- Somebody waits: tell every replica when tokens come free.
                    UPDATE ledger_heads SET contended_until_ns = now + waiting_ns
                     WHERE ledger_heads.organisation = names[org];
                    waited[org] := now + waiting_ns;
                END IF;
                SELECT to_jsonb(reservations) INTO answer.facts
                  FROM reservations WHERE reservations.id = op.id;
                IF FOUND AND op.verb = 'reserve' THEN
                    answer.status := 'exists';
                END IF;
                RETURN NEXT answer;
                CONTINUE;
            END IF;
        END IF;

        IF op.verb = 'reserve' THEN
            IF output < op.max_output THEN
                amounts := ARRAY[
                    op.prompt[1] + div(op.output[1]::numeric * output + op.max_output - 1, op.max_output)::bigint,
                    op.prompt[2] + div(op.output[2]::numeric * output + op.max_output - 1, op.max_output)::bigint,
                    op.prompt[3] + div(op.output[3]::numeric * output + op.max_output - 1, op.max_output)::bigint
                ];
                e_detail := replace(op.clamped, '"max_output":-1', '"max_output":' || output);
            ELSE
                amounts := added;
            END IF;
            INSERT INTO reservations (
                id, organisation, scope, tokens, weighted_tokens, usd_micros, max_output, priority, state,
                charged_tokens, charged_weighted, charged_usd, owner, decision_id, created_ns, expires_ns, rows
            ) VALUES (
                op.id, names[org], op.scope, amounts[1], amounts[2], amounts[3], output, op.priority, 'held',
                0, 0, 0, _owner, op.decision_id, now, op.expires_ns, rows_text
            ) ON CONFLICT (id) DO NOTHING;
            IF NOT FOUND THEN
                answer.status := 'exists';
                SELECT to_jsonb(reservations) INTO answer.facts FROM reservations WHERE reservations.id = op.id;
                RETURN NEXT answer;
                CONTINUE;
            END IF;
            IF op.idempotency_key IS NOT NULL THEN
                INSERT INTO idempotency_keys (scope, key, fingerprint, reservation_id, created_ns)
                VALUES (op.scope, op.idempotency_key, op.fingerprint, op.id, now)
                ON CONFLICT (scope, key) DO UPDATE
                    SET fingerprint = excluded.fingerprint,
                        reservation_id = excluded.reservation_id,
                        created_ns = excluded.created_ns;
            END IF;
            e_kind := 'reserve';
            e_held := amounts;
            answer.granted := output;
        ELSIF op.verb = 'reweight' THEN
            UPDATE reservations
               SET tokens = tokens + more[1],
                   weighted_tokens = weighted_tokens + more[2],
                   usd_micros = usd_micros + more[3]
             WHERE reservations.id = op.id;
            answer.facts := to_jsonb(stored);
            e_kind := 'reweight';
            e_held := more;
        ELSIF op.verb = 'record' THEN
            e_kind := 'record';
            e_used := op.charged;
        ELSE
            -- settle, release, expire
            IF stored.id IS NULL THEN
                answer.status := 'missing';
            ELSIF stored.rows <> rows_text THEN
                answer.status := 'rows';
            ELSIF stored.state <> 'held' AND NOT (op.verb = 'settle' AND stored.state = 'expired_charged') THEN
                answer.status := 'ended';
            END IF;
            IF op.first AND answer.status <> 'done' THEN
                -- What was written beside it belongs to the first end alone.
                RAISE EXCEPTION 'the reservation % is %', op.id, answer.status USING ERRCODE = 'TRV01';
            END IF;
            IF answer.status <> 'rows' THEN
                -- The asker knows them, and they are the larger part.
                stored.rows := '';
            END IF;
            answer.facts := to_jsonb(stored);
            IF answer.status <> 'done' THEN
                RETURN NEXT answer;
                CONTINUE;
            END IF;
            amounts := ARRAY[stored.tokens, stored.weighted_tokens, stored.usd_micros];
            IF op.verb = 'release' THEN
                e_used := nothing;
                next_state := 'released';
                e_kind := 'release';
            ELSIF op.verb = 'expire' THEN
                e_used := amounts;
                next_state := 'expired_charged';
                e_kind := 'expire';
            ELSE
                next_state := 'settled';
                e_kind := CASE stored.state WHEN 'held' THEN 'settle' ELSE 'correct' END;
                IF op.charged IS NOT NULL THEN
                    e_used := op.charged;
                ELSIF amounts[1] = 0 THEN
                    e_used := ARRAY[op.tokens, op.tokens, 0];
                ELSE
                    e_used := ARRAY[
                        op.tokens,
                        div(amounts[2]::numeric * op.tokens + amounts[1] - 1, amounts[1])::bigint,
                        div(amounts[3]::numeric * op.tokens + amounts[1] - 1, amounts[1])::bigint
                    ];
                END IF;
                -- What earlier attempts owe; each has an entry of its own.
                IF op.earlier IS NOT NULL THEN
                    FOR past IN SELECT * FROM jsonb_to_recordset(op.earlier) AS told (charged bigint[]) LOOP
                        past_sum := ARRAY[
                            past_sum[1] + past.charged[1], past_sum[2] + past.charged[2],
                            past_sum[3] + past.charged[3]
                        ];
                    END LOOP;
                    e_used := ARRAY[e_used[1] + past_sum[1], e_used[2] + past_sum[2], e_used[3] + past_sum[3]];
                END IF;
            END IF;
            answer.facts := answer.facts || jsonb_build_object('charged', to_jsonb(e_used));
            e_overrun := greatest(0, e_used[1] - amounts[1]);
            IF stored.state = 'held' THEN
                e_held := ARRAY[-amounts[1], -amounts[2], -amounts[3]];
            END IF;
        END IF;

        IF stored.id IS NOT NULL THEN
            op.scope := stored.scope;
        END IF;

        -- The counters, in memory; they are written once, at the end.
        blocked := false;
        IF e_kind = 'correct' THEN
            more := ARRAY[
                e_used[1] - stored.charged_tokens, e_used[2] - stored.charged_weighted,
                e_used[3] - stored.charged_usd
            ];
        ELSE
            more := e_used;
        END IF;
        IF op.verb NOT IN ('reserve', 'record') THEN
            FOR i IN first_row .. last_row LOOP
                blocked := blocked OR NOT c_known[_rows[i]];
            END LOOP;
            IF blocked THEN
                RAISE EXCEPTION 'the counters of the reservation % are missing', op.id USING ERRCODE = 'TRV02';
            END IF;
        END IF;
        FOR i IN first_row .. last_row LOOP
            k := _rows[i];
            m := meter_of[k];
            c_used[k] := c_used[k] + more[m];
            c_held[k] := c_held[k] + e_held[m];
            c_changed[k] := true;
        END LOOP;

        -- What is left, which thresholds were crossed, who may be waiting.
        IF op.verb NOT IN ('reserve', 'reweight') THEN
            room_left := NULL;
            over := nothing;
            n := 0;
            b_used := '{}';
            b_held := '{}';
            FOR i IN first_cap .. last_cap LOOP
                k := _caps[i];
                CONTINUE WHEN k = 0;
                n := n + 1;
                m := _cap_meters[i];
                u := c_used[k];
                h := c_held[k];
                b_used[n] := u;
                b_held[n] := h;
                ceiling := _limits[i] + _grants[i]
                           + CASE WHEN stored.priority = 'critical' THEN _criticals[i] ELSE 0 END;
                IF m = 1 THEN
                    room_left := least(room_left, greatest(0, ceiling - u - h));
                END IF;
                IF op.verb = 'record' THEN
                    over[m] := greatest(over[m], least(more[m], u + h - ceiling));
                END IF;
                -- A rough look first; what is near is looked at exactly.
                IF _calendars[i] AND more[m] <> 0
                   AND u::float8 * 101 >= _thresholds[1]::float8 * _limits[i] THEN
                    PERFORM ledger__announce(
                        names[org], _scopes[k], _meters[k], _windows[k], _subjects[k], _starts[k], _ends[k],
                        u::numeric - more[m], u, _limits[i], ceiling, _thresholds, now
                    );
                END IF;
            END LOOP;
            answer.used := b_used;
            answer.held := b_held;
            IF op.verb = 'record' THEN
                e_overrun := over[1];
                answer.facts := jsonb_build_object('overrun', to_jsonb(over));
            ELSE
                UPDATE reservations
                   SET state = next_state,
                       charged_tokens = e_used[1],
                       charged_weighted = e_used[2],
                       charged_usd = e_used[3],
                       remaining = room_left,
                       closed_ns = now
                 WHERE reservations.id = op.id;
            END IF;
            IF waited[org] > now THEN
                PERFORM pg_notify('trivet_freed', op.scope);
            END IF;
        END IF;

        IF op.earlier IS NOT NULL THEN
            FOR past IN
                SELECT told.value ->> 'detail' AS detail,
                       ARRAY(SELECT jsonb_array_elements_text(told.value -> 'charged')::bigint) AS charged
                  FROM jsonb_array_elements(op.earlier) WITH ORDINALITY AS told (value, n)
                 ORDER BY told.n
            LOOP
                hashes[org] := ledger__append(
                    hashes[org], names[org], now, 'attempt', op.id, op.scope, past.charged, nothing, 0, rows_text,
                    past.detail, ''
                );
            END LOOP;
            more := ARRAY[more[1] - past_sum[1], more[2] - past_sum[2], more[3] - past_sum[3]];
        END IF;
        hashes[org] := ledger__append(
            hashes[org], names[org], now, e_kind, CASE op.verb WHEN 'record' THEN NULL ELSE op.id END, op.scope, more,
            e_held, e_overrun, rows_text, e_detail, e_note
        );
        RETURN NEXT answer;
    END LOOP;

    UPDATE counters
       SET used = standing.used,
           held = standing.held
      FROM unnest(_scopes, _meters, _windows, _subjects, _starts, c_used, c_held, c_known, c_changed)
           AS standing (scope, meter, "window", subject, start_s, used, held, known, changed)
     WHERE standing.changed
       AND standing.known
       AND counters.scope = standing.scope
       AND counters.meter = standing.meter
       AND counters."window" = standing."window"
       AND counters.subject = standing.subject
       AND counters.window_start_s = standing.start_s;
    INSERT INTO counters (scope, meter, "window", subject, window_start_s, window_end_s, used, held)
    SELECT standing.scope, standing.meter, standing."window", standing.subject, standing.start_s, standing.end_s,
           standing.used, standing.held
      FROM unnest(_scopes, _meters, _windows, _subjects, _starts, _ends, c_used, c_held, c_known, c_changed)
           AS standing (scope, meter, "window", subject, start_s, end_s, used, held, known, changed)
     WHERE standing.changed
       AND NOT standing.known;
END
$$;
