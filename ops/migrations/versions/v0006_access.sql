-- A key that takes another's place is of its lineage, which is called by its first key.
ALTER TABLE api_keys ADD COLUMN lineage text COLLATE "C", ADD COLUMN last_used_at timestamptz;
UPDATE api_keys SET lineage = id;
ALTER TABLE api_keys ALTER COLUMN lineage SET NOT NULL;
CREATE INDEX api_keys_lineage ON api_keys (lineage);

-- Who was refused, and what administrators did. Fogbook adds to it; only its owner takes from it.
-- `key_id` is that of an API key, or `token:<subject>` of a token by `issuer`; of an administrative act, the key that it
-- was about. `zone` is empty where what happened is no zone's own.
CREATE TABLE access_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('authentication', 'denial', 'administration', 'dropped')),
    route text NOT NULL,
    zone text COLLATE "C" NOT NULL DEFAULT '',
    key_id text NOT NULL DEFAULT '',
    issuer text NOT NULL DEFAULT '',
    principal text NOT NULL DEFAULT '',
    problem text NOT NULL DEFAULT '',
    count bigint NOT NULL DEFAULT 1,
    facts jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX access_log_zone ON access_log (zone, id);
