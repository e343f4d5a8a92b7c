-- Where a handler failed, and whether an operator said to do without the event for good.
ALTER TABLE quarantine ADD COLUMN stack text NOT NULL DEFAULT '', ADD COLUMN discarded boolean NOT NULL DEFAULT false;

-- What became of the acts that operators asked for; kept apart from the projection so that a rebuild does nothing twice.
-- Whoever is at work on one keeps `claimed_until` ahead; one that ran out was a dead worker's, and another takes it.
CREATE TABLE act_fates (
    zone text COLLATE "C" NOT NULL,
    act text COLLATE "C" NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'failed', 'refused', 'cancelled')),
    attempts integer NOT NULL DEFAULT 1,
    claimed_until timestamptz NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    head bigint NOT NULL DEFAULT 0,
    error text NOT NULL DEFAULT '',
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    PRIMARY KEY (zone, act)
);
