-- Only functions write to the log: whoever works with it may call them, and owns none of the rights that they use.
-- `fogbook migrate` gives them to the role that has those rights (ops/migrate.py). The schemas that they look in are
-- fixed, so that no caller puts a table of his own in the way.

ALTER FUNCTION append_to_log SECURITY DEFINER SET search_path = public, pg_temp;

-- A zone's head, locked until the end of the transaction; no row where there is no such zone.
CREATE FUNCTION lock_head(p_zone text) RETURNS SETOF heads LANGUAGE sql VOLATILE
SECURITY DEFINER SET search_path = public, pg_temp
AS $$ SELECT * FROM heads WHERE zone = p_zone FOR UPDATE $$;

-- The head of a new zone, at position 0; nothing where there is one.
CREATE FUNCTION add_head(p_zone text, p_clock text, p_at timestamptz) RETURNS void LANGUAGE sql VOLATILE
SECURITY DEFINER SET search_path = public, pg_temp
AS $$ INSERT INTO heads (zone, clock, recorded_at) VALUES (p_zone, p_clock, p_at) ON CONFLICT (zone) DO NOTHING $$;
