-- What lets an auditor prove that history stands: Merkle trees over each zone's two logs, signed checkpoints,
-- digests of read models, and how far the archive of past rows has come.

-- Two logs a zone: `events` (index = position - 1) and `fates`, the second log, of fates and attestations.
-- `wanted` is a size that somebody waits for to be signed; `refused` says why nothing is signed.
CREATE TABLE trees (
    zone text COLLATE "C" NOT NULL,
    log text COLLATE "C" NOT NULL CHECK (log IN ('events', 'fates')),
    origin text COLLATE "C" NOT NULL,
    size bigint NOT NULL DEFAULT 0,
    root bytea NOT NULL,
    wanted bigint NOT NULL DEFAULT 0,
    refused text NOT NULL DEFAULT '',
    PRIMARY KEY (zone, log)
) WITH (fillfactor = 50);

-- Tiles of 256 hashes (tlog-tiles); the rightmost one of each level is shorter, and grows.
CREATE TABLE tiles (
    zone text COLLATE "C" NOT NULL,
    log text COLLATE "C" NOT NULL,
    level smallint NOT NULL,
    index bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (zone, log, level, index)
);
ALTER TABLE tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- Public halves of signing keys. Private ones follow from the installation's secret and the serial number.
CREATE TABLE signing_keys (
    zone text COLLATE "C" NOT NULL,
    serial integer NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    PRIMARY KEY (zone, serial)
);

-- Signed notes as they were published; never changed.
CREATE TABLE signed_checkpoints (
    zone text COLLATE "C" NOT NULL,
    log text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    note text NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone, log, size, signed_at)
);

CREATE TABLE witnesses (
    name text COLLATE "C" PRIMARY KEY,
    verifier_key text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now()
);

-- Cosignatures of witnesses: lines that are added to a published note.
CREATE TABLE cosignatures (
    zone text COLLATE "C" NOT NULL,
    log text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    witness text COLLATE "C" NOT NULL,
    line text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone, log, size, root, witness)
);

-- Entries of the second log that are no fates. Entry `ordinal` (from 1) stands behind fate `after_number`, so its
-- index there is after_number + ordinal - 1, and that of fate n is n - 1 + the attestations that stand before it.
CREATE TABLE attestations (
    zone text COLLATE "C" NOT NULL,
    ordinal bigint NOT NULL,
    after_number bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    leaf bytea NOT NULL,
    PRIMARY KEY (zone, ordinal)
);
CREATE INDEX attestations_after ON attestations (zone, after_number);
CREATE UNIQUE INDEX attestations_at ON attestations (zone, (after_number + ordinal));

-- The sum over the rows of a generation (projections/_digest.py), little-endian; in line, so that updates stay on the page.
CREATE TABLE digests (
    zone text COLLATE "C" NOT NULL,
    projection text COLLATE "C" NOT NULL,
    generation integer NOT NULL,
    accumulator bytea NOT NULL,
    PRIMARY KEY (zone, projection, generation)
) WITH (fillfactor = 50);
ALTER TABLE digests ALTER COLUMN accumulator SET STORAGE PLAIN;

-- Where the archive of a projection's past rows stands, as `checkpoints` says of the live ones.
CREATE TABLE archives (
    zone text COLLATE "C" NOT NULL,
    projection text COLLATE "C" NOT NULL,
    generation integer NOT NULL,
    code text NOT NULL,
    live boolean NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    recorded_at timestamptz NOT NULL DEFAULT 'epoch',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (zone, projection, generation)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX one_live_archive ON archives (zone, projection) WHERE live;
