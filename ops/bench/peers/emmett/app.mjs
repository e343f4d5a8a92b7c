// The same transfer as a user of express and emmett writes it, after emmett's documentation.
//
// A wallet is a stream; CommandHandler reads it, decides and appends under the expected version, and is run again
// when another transfer came first (the documented retry, with far shorter waits than its own of 100 ms and more).
// Emmett 0.42 appends to one stream in one transaction: withSession lends a connection but joins nothing, so the
// debit and the credit are two commits, and a crash in between loses the money. It keeps no idempotency keys or
// hashes and reads each wallet's whole stream, since it has no snapshots.

import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

import { CommandHandler, isExpectedVersionConflictError } from '@event-driven-io/emmett';
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';
import express from 'express';
import pg from 'pg';

import { credit, debit, evolve, inParallel, initialState, opening, streamOf, wallet } from './wallets.mjs';

const CACHE_MS = 2_000;
const CONNECTIONS = Number(process.env.EMMETT_POOL ?? 10);
const FIND =
  'SELECT principal, digest FROM api_keys ' +
  'WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())';

const { BENCH_WALLETS, BENCH_PRINCIPALS, DATABASE_URL, EMMETT_URL, FOGBOOK_PEPPER } = process.env;
const port = Number(process.argv[2]);

const eventStore = getPostgreSQLEventStore(EMMETT_URL, {
  connectionOptions: { pool: new pg.Pool({ connectionString: EMMETT_URL, max: CONNECTIONS }) },
  schema: { autoMigration: 'None' },
});
const keys = new pg.Pool({ connectionString: DATABASE_URL, max: 4 });
const handle = CommandHandler({
  evolve,
  initialState,
  retry: { retries: 100, minTimeout: 1, maxTimeout: 20, shouldRetryError: isExpectedVersionConflictError },
});

// Callers by the digest of their header, as Fogbook remembers them.
const callers = new Map();

const authenticated = async (header = '') => {
  const remembered = createHash('sha256').update(header).digest('base64');
  const cached = callers.get(remembered);
  if (cached !== undefined && cached.until > performance.now()) return cached.principal;
  const [, id, secret] = /^Bearer fog_([0-9a-z]+)_(.+)$/i.exec(header) ?? [];
  const found = id === undefined ? undefined : (await keys.query(FIND, [id])).rows[0];
  const digest = createHmac('sha256', FOGBOOK_PEPPER).update(secret ?? '').digest();
  if (found === undefined || !timingSafeEqual(digest, found.digest)) return null;
  callers.set(remembered, { until: performance.now() + CACHE_MS, principal: found.principal });
  return found.principal;
};

const answer = (command, appended) => {
  const events = appended.map(([name, { newEvents, nextExpectedStreamVersion, lastEventGlobalPosition }]) => ({
    position: Number(lastEventGlobalPosition),
    stream: name,
    version: Number(nextExpectedStreamVersion),
    type: newEvents[0].type,
    data: newEvents[0].data,
  }));
  const { position } = events.at(-1);
  return { command_id: `c${position}`, zone: 'main', position, events };
};

const app = express();
app.set('etag', false);
app.disable('x-powered-by');
app.use(express.json());

app.use(async (request, response, next) => {
  request.caller = await authenticated(request.headers.authorization);
  if (request.caller === null) response.status(401).json({ detail: 'The API key is unknown.' });
  else next();
});

app.post('/commands/ledger/transfer', async (request, response) => {
  const command = request.body;
  const debited = await handle(eventStore, streamOf(command.from), debit(command, request.caller));
  const credited = await handle(eventStore, streamOf(command.to), credit(command));
  response.json(answer(command, [[command.from, debited], [command.to, credited]]));
});

app.use((error, request, response, next) => {
  response.status(error.status ?? 500).json({ detail: error.message });
});

await eventStore.schema.migrate();
await inParallel(CONNECTIONS, Number(BENCH_WALLETS), (number) =>
  eventStore.appendToStream(
    streamOf(wallet(number, Number(BENCH_PRINCIPALS))),
    opening(number, Number(BENCH_PRINCIPALS)),
  ),
);
app.listen(port, '127.0.0.1', 2048);
