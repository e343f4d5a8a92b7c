// A read model of wallets as emmett's documentation rebuilds one: `make <events>` writes a history of the shape that
// Fogbook's has, `rebuild` folds it; each prints one line of JSON at the end.
//
// The projection is the documented raw SQL one, with a single statement an event; emmett stores its checkpoint after
// every event and commits after every batch. Batches are of 2,000 events with hardly a pause between them (emmett's
// own are of 100 with 50 ms). A single writer makes the history: emmett 0.42 reads in the order of transactions but
// remembers positions, so that after concurrent appends it passes over events whose position is the lower one.

import { SQL } from '@event-driven-io/dumbo';
import {
  getPostgreSQLEventStore,
  postgreSQLRawSQLProjection,
  rebuildPostgreSQLProjections,
} from '@event-driven-io/emmett-postgresql';
import pg from 'pg';

import { START, credit, debit, opening, randomTransfer, streamOf, wallet } from './wallets.mjs';

const EVENTS_AN_APPEND = 5;
const BATCH = 2_000;
const TABLES = `
  DROP TABLE IF EXISTS accounts, balances, statement;
  CREATE TABLE accounts (account text PRIMARY KEY, owner text NOT NULL);
  CREATE TABLE balances (account text, asset text, posted numeric NOT NULL, PRIMARY KEY (account, asset));
  CREATE TABLE statement (
    account text, line bigint, asset text, amount numeric, posted numeric, counterparty text, purpose text,
    reference text, memo text, PRIMARY KEY (account, line)
  )`;

const { BENCH_PRINCIPALS, BENCH_WALLETS, EMMETT_URL } = process.env;

const make = async (count) => {
  const principals = Number(BENCH_PRINCIPALS);
  const wallets = Math.max(2, Math.min(Number(BENCH_WALLETS), Math.floor(count / 10)));
  const store = getPostgreSQLEventStore(EMMETT_URL, { schema: { autoMigration: 'None' } });
  await store.schema.migrate();
  const waiting = Array.from({ length: wallets }, (_, number) => opening(number, principals));
  const streams = new Map(waiting.map((events, number) => [wallet(number, principals), events]));
  for (let made = 2 * wallets; made < count; made += 2) {
    const { by, ...command } = randomTransfer(wallets, principals);
    streams.get(command.from).push(debit(command, by)({ owner: by, balance: Infinity }));
    streams.get(command.to).push(credit(command)({ owner: '' }));
  }
  while (waiting.some((events) => events.length > 0))
    for (const [name, events] of streams)
      if (events.length > 0) await store.appendToStream(streamOf(name), events.splice(0, EVENTS_AN_APPEND));
  await store.close();
  return { events: 2 * Math.ceil(count / 2), money: String(START * wallets) };
};

const posted = ({ metadata, data }, amount) => SQL`
  WITH balance AS (
    INSERT INTO balances VALUES (${metadata.streamName}, ${data.asset}, ${amount}::numeric)
    ON CONFLICT (account, asset) DO UPDATE SET posted = balances.posted + excluded.posted RETURNING posted
  )
  INSERT INTO statement
  SELECT ${metadata.streamName}, ${String(metadata.globalPosition)}::bigint, ${data.asset}, ${amount}::numeric, posted,
         ${data.counterparty}, ${data.purpose}, ${data.reference}, ${data.memo}
  FROM balance`;

const evolve = (event) => {
  switch (event.type) {
    case 'Credited':
      return posted(event, event.data.amount);
    case 'Debited':
      return posted(event, `-${event.data.amount}`);
    default:
      return SQL`INSERT INTO accounts VALUES (${event.metadata.streamName}, ${event.data.owner})`;
  }
};

const rebuild = async () => {
  const pool = new pg.Pool({ connectionString: EMMETT_URL, max: 1 });
  await pool.query(TABLES);
  const consumer = rebuildPostgreSQLProjections({
    connectionString: EMMETT_URL,
    // Another name each time, since a checkpoint belongs to a name.
    projection: postgreSQLRawSQLProjection({
      name: `wallets-${Date.now()}`,
      canHandle: ['Opened', 'Credited', 'Debited'],
      evolve,
    }),
    pulling: { batchSize: BATCH, pullingFrequencyInMs: 1 },
  });
  const begun = performance.now();
  await consumer.start();
  const seconds = (performance.now() - begun) / 1000;
  const { rows } = await pool.query(
    'SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM statement) AS events, ' +
      '(SELECT sum(posted) FROM balances)::text AS money',
  );
  await consumer.close();
  await pool.end();
  return { events: Number(rows[0].events), money: rows[0].money, seconds };
};

const [, , what, count] = process.argv;
const cpu = process.cpuUsage();
const done = what === 'make' ? await make(Number(count)) : await rebuild();
const { user, system } = process.cpuUsage(cpu);
console.log(JSON.stringify({ ...done, cpu_s: (user + system) / 1e6 }));
process.exit(0);
