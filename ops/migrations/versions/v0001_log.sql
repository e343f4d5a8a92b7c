-- The log of each zone: its head, its events, the fates of its commands, snapshots of its streams.
-- `zone` leads every key, so that the schema can be distributed by it.

CREATE TABLE heads (
    zone text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0,
    number bigint NOT NULL DEFAULT 0,
    recorded_at timestamptz NOT NULL DEFAULT 'epoch',
    clock text NOT NULL CHECK (clock IN ('real', 'manual'))
) WITH (fillfactor = 50);

CREATE TABLE events (
    zone text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    meta bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    leaf bytea NOT NULL,
    PRIMARY KEY (zone, position),
    UNIQUE (zone, stream, version)
);

-- What became of each command: accepted (200) or refused by a rule (409).
CREATE TABLE commands (
    zone text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    principal text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    act_as text COLLATE "C" NOT NULL,
    request bytea NOT NULL,
    if_match bigint,
    status smallint NOT NULL,
    answer bytea NOT NULL,
    position bigint NOT NULL,
    events integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    leaf bytea NOT NULL,
    PRIMARY KEY (zone, principal, key),
    UNIQUE (zone, number)
);

CREATE TABLE snapshots (
    zone text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    position bigint NOT NULL,
    schema text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (zone, stream)
);

-- Compare and append. The head row stays locked until commit, so positions and numbers are gapless even
-- across rollbacks, and commit order is position order. VOLATILE at READ COMMITTED on purpose: each statement
-- below sees what was committed while the lock was awaited.
CREATE FUNCTION append_to_log(
    p_zone text, p_position bigint, p_number bigint, p_at timestamptz,
    c_principal text[], c_key text[], c_act_as text[], c_request bytea[], c_if_match bigint[],
    c_status smallint[], c_answer bytea[], c_position bigint[], c_events integer[], c_leaf bytea[],
    e_stream text[], e_version bigint[], e_type text[], e_data bytea[], e_meta bytea[], e_leaf bytea[],
    s_stream text[], s_version bigint[], s_position bigint[], s_schema text[], s_state bytea[]
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    head heads%ROWTYPE;
    stored bigint;
BEGIN
    SELECT * INTO head FROM heads WHERE zone = p_zone FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'zone % does not exist', p_zone USING ERRCODE = 'FB404';
    END IF;
    IF head.position <> p_position OR head.number <> p_number THEN
        RETURN false;
    END IF;
    IF cardinality(c_key) + cardinality(e_stream) = 0 THEN
        RETURN true;
    END IF;
    IF p_at < head.recorded_at THEN
        RAISE EXCEPTION 'time goes backwards: % is before %', p_at, head.recorded_at USING ERRCODE = 'FB002';
    END IF;
    -- A database whose own clock fell behind its log (failover) must not stop the zone: time stands still then.
    IF head.clock = 'real' AND p_at > greatest(clock_timestamp() + interval '2 seconds', head.recorded_at) THEN
        RAISE EXCEPTION 'clock is ahead: % against %', p_at, clock_timestamp() USING ERRCODE = 'FB003';
    END IF;
    IF cardinality(c_key) > 0 THEN
        INSERT INTO commands
        SELECT p_zone, p_number + i, principal, key, act_as, request, if_match, status, answer, position, events,
               p_at, leaf
        FROM unnest(c_principal, c_key, c_act_as, c_request, c_if_match, c_status, c_answer, c_position,
                    c_events, c_leaf) WITH ORDINALITY
             AS c(principal, key, act_as, request, if_match, status, answer, position, events, leaf, i)
        ON CONFLICT (zone, principal, key) DO NOTHING;
        GET DIAGNOSTICS stored = ROW_COUNT;
        IF stored <> cardinality(c_key) THEN
            RAISE EXCEPTION 'a key was used before' USING ERRCODE = 'FB001';
        END IF;
    END IF;
    INSERT INTO events
    SELECT p_zone, p_position + i, stream, version, type, data, meta, p_at, leaf
    FROM unnest(e_stream, e_version, e_type, e_data, e_meta, e_leaf) WITH ORDINALITY
         AS e(stream, version, type, data, meta, leaf, i);
    IF cardinality(s_stream) > 0 THEN
        INSERT INTO snapshots
        SELECT p_zone, stream, version, position, schema, state
        FROM unnest(s_stream, s_version, s_position, s_schema, s_state)
             AS s(stream, version, position, schema, state)
        ON CONFLICT (zone, stream) DO UPDATE
        SET version = excluded.version, position = excluded.position, schema = excluded.schema,
            state = excluded.state;
    END IF;
    UPDATE heads
    SET position = p_position + cardinality(e_stream), number = p_number + cardinality(c_key), recorded_at = p_at
    WHERE zone = p_zone;
    RETURN true;
END
$$;

-- Who may call, and how: the secret itself is never stored, only its HMAC.
CREATE TABLE api_keys (
    id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    principal text COLLATE "C" NOT NULL,
    role text NOT NULL CHECK (role IN ('operator', 'participant', 'provider', 'auditor', 'worker')),
    scopes text[] NOT NULL,
    zones text[] NOT NULL,
    digest bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

-- Where each generation of a projection stands. `tenure` is the lease of the follower at work: one that ran out
-- without being given back tells the next follower that its predecessor died, and to go carefully.
CREATE TABLE checkpoints (
    zone text COLLATE "C" NOT NULL,
    projection text COLLATE "C" NOT NULL,
    generation integer NOT NULL,
    code text NOT NULL,
    live boolean NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    recorded_at timestamptz NOT NULL DEFAULT 'epoch',
    updated_at timestamptz NOT NULL DEFAULT now(),
    tenure timestamptz,
    PRIMARY KEY (zone, projection, generation)
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX one_live_generation ON checkpoints (zone, projection) WHERE live;

-- Events that a projection could not digest, and the later events of their streams.
CREATE TABLE quarantine (
    zone text COLLATE "C" NOT NULL,
    projection text COLLATE "C" NOT NULL,
    generation integer NOT NULL,
    position bigint NOT NULL,
    stream text COLLATE "C" NOT NULL,
    attempts integer NOT NULL,
    quarantined boolean NOT NULL,
    error text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone, projection, generation, position)
);

-- What became of the commands that timers issued; kept apart from the projection so that a rebuild fires nothing.
CREATE TABLE timer_fates (
    zone text COLLATE "C" NOT NULL,
    timer text COLLATE "C" NOT NULL,
    attempts integer NOT NULL,
    accepted boolean NOT NULL,
    next_at timestamptz NOT NULL,
    problem text NOT NULL DEFAULT '',
    PRIMARY KEY (zone, timer)
);
