-- How many commands were refused, and by which rules, in an hour or a day (queries/analytics.py).
-- `zone` leads every key, so that the schema can be distributed by it.

-- The refused ones of a time. Accepted commands are not in it, so the usual append does not pay for it.
CREATE INDEX refused_commands ON commands (zone, recorded_at) WHERE status <> 200;

-- Every thousandth command: numbers are gapless and in the order of time, so the number that a zone had reached at
-- any time is found by one milestone and at most a thousand commands behind it. That counts the accepted ones.
CREATE INDEX milestone_commands ON commands (zone, recorded_at, number) WHERE number % 1000 = 0;
