-- What applications of the `eventsourcing` library keep beside their zone's log (commands/_recorder.py).
-- `zone` leads every key, so that the schema can be distributed by it.

-- Sequences that are in no total order: the library's snapshots. They are derived, so they are not in the log.
CREATE TABLE recorder_events (
    zone text COLLATE "C" NOT NULL,
    purpose text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (zone, purpose, stream, version)
);

-- How far the zone's application has processed the log of another one; it only moves forward.
CREATE TABLE recorder_tracking (
    zone text COLLATE "C" NOT NULL,
    application text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (zone, application)
) WITH (fillfactor = 50);
