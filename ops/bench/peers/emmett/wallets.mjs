// Wallets as emmett's documentation models a stream: its events, the state they evolve, and decisions on it.

import { randomInt } from 'node:crypto';

export const START = 10 ** 12;

export const initialState = () => ({ owner: null, balance: 0 });

export const evolve = (state, { type, data }) => {
  switch (type) {
    case 'Opened':
      return { ...state, owner: data.owner };
    case 'Credited':
      return { ...state, balance: state.balance + Number(data.amount) };
    case 'Debited':
      return { ...state, balance: state.balance - Number(data.amount) };
    default:
      return state;
  }
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const posting = ({ asset = 'FOG', amount, purpose = 'transfer', reference = '', memo = '' }, counterparty) => ({
  asset,
  amount,
  counterparty,
  purpose,
  reference,
  memo,
});

export const debit = (command, caller) => (wallet) => {
  if (wallet.owner !== caller) throw new Refused(404, 'There is no such wallet, or it is not yours.');
  if (wallet.balance < Number(command.amount)) throw new Refused(409, 'The wallet has less than that.');
  return { type: 'Debited', data: posting(command, command.to) };
};

export const credit = (command) => (wallet) => {
  if (wallet.owner === null) throw new Refused(404, 'There is no such wallet.');
  return { type: 'Credited', data: posting(command, command.from) };
};

// The names that Fogbook's wallets have.
export const principal = (number, principals) => `p${String(number % principals).padStart(2, '0')}`;

export const wallet = (number, principals) =>
  `wallet:${principal(number, principals)}:${Math.floor(number / principals)}`;

// What stands before the first dash is a stream's type to emmett.
export const streamOf = (name) => `wallet-${name}`;

export const opening = (number, principals) => [
  { type: 'Opened', data: { owner: principal(number, principals) } },
  { type: 'Credited', data: posting({ amount: String(START), purpose: 'mint' }, 'world') },
];

export const randomTransfer = (wallets, principals) => {
  const source = randomInt(wallets);
  const target = (source + 1 + randomInt(wallets - 1)) % wallets;
  return {
    from: wallet(source, principals),
    to: wallet(target, principals),
    amount: String(1 + randomInt(9)),
    by: principal(source, principals),
  };
};

// At most that many under way at once.
export const inParallel = async (limit, count, work) => {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: limit }, worker));
};
