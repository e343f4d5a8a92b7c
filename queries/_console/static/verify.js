// Checks an event's proof in the browser. Formats: C2SP tlog-checkpoint and signed-note; hashes: RFC 6962.
"use strict";
(async () => {
  const list = document.getElementById("proof");
  if (!list?.dataset.proof) return;
  const { event: said, data, proof, keys } = list.dataset;
  const shown = JSON.parse(said), given = JSON.parse(proof);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const hex = (array) => [...array].map((b) => b.toString(16).padStart(2, "0")).join("");
  const join = (...parts) => { const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0)); let at = 0; for (const p of parts) { all.set(p, at); at += p.length; } return all; };
  const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
  const text = new TextDecoder("utf-8", { fatal: true });

  // The entry: length-prefixed zone, position, stream, version, type, recorded_at (us), meta, data.
  function parse(entry) {
    const view = new DataView(entry.buffer, entry.byteOffset);
    let at = 0;
    const part = () => { const n = view.getUint16(at); at += 2 + n; if (at > entry.length) throw new Error("cut off"); return entry.subarray(at - n, at); };
    const number = () => { at += 8; return view.getBigInt64(at - 8); };
    const read = { zone: text.decode(part()), position: number(), stream: text.decode(part()), version: number(), type: text.decode(part()), recorded_at: number(), meta: text.decode(part()), data: text.decode(part()) };
    if (at !== entry.length) throw new Error("too long");
    return read;
  }
  const micros = (time) => { const [, to, rest] = /^(.*?)(?:\.(\d+))?Z$/.exec(time); return BigInt(Date.parse(to + "Z")) * 1000n + BigInt((rest ?? "").padEnd(6, "0").slice(0, 6)); };
  const sorted = (value) => Array.isArray(value) ? value.map(sorted) : value && typeof value === "object" ? Object.fromEntries(Object.keys(value).sort().map((k) => [k, sorted(value[k])])) : value;
  const same = (a, b) => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));

  // RFC 9162, 2.1.3.2
  async function root(leaf, index, size, hashes) {
    let fn = BigInt(index), sn = BigInt(size) - 1n, r = leaf;
    for (const p of hashes) {
      if (sn === 0n) return null;
      if ((fn & 1n) === 1n || fn === sn) {
        r = await sha256([1], p, r);
        while ((fn & 1n) === 0n && fn !== 0n) { fn >>= 1n; sn >>= 1n; }
      } else r = await sha256([1], r, p);
      fn >>= 1n; sn >>= 1n;
    }
    return sn === 0n ? r : null;
  }

  async function signed(note, vkey) {
    const split = note.lastIndexOf("\n\n");
    const body = note.slice(0, split + 1), lines = note.slice(split + 2).trimEnd().split("\n");
    const [, name, id, encoded] = /^(.+)\+([0-9a-f]{8})\+(.+)$/.exec(vkey.trim()) ?? [];
    if (!encoded) return "The key is no vkey.";
    const key = bytes(encoded);
    if (key[0] !== 1 || key.length !== 33) return "The key is none of Ed25519.";
    const own = hex((await sha256(new TextEncoder().encode(name + "\n"), key)).subarray(0, 4));
    if (own !== id) return "The key does not fit its own name.";
    const line = lines.map((l) => l.match(/^— (\S+) (\S+)$/)).find((m) => m && m[1] === name && hex(bytes(m[2]).subarray(0, 4)) === id);
    if (!line) return "This key did not sign the checkpoint.";
    const imported = await crypto.subtle.importKey("raw", key.subarray(1), { name: "Ed25519" }, false, ["verify"]);
    const good = await crypto.subtle.verify({ name: "Ed25519" }, imported, bytes(line[2]).subarray(4), new TextEncoder().encode(body));
    if (!good) return "The signature is false.";
    return body.startsWith(name + "\n") ? "" : "The checkpoint is of another log.";
  }

  async function check() {
    const results = [];
    const entry = bytes(given.entry);
    try {
      const read = parse(entry);
      const fits = read.zone === shown.zone && read.position === BigInt(shown.position) && read.stream === shown.stream && read.version === BigInt(shown.version) && read.type === shown.type && read.recorded_at === micros(shown.recorded_at) && same(JSON.parse(read.data), JSON.parse(data));
      results.push([fits, fits ? "The event on this page is the one that was hashed." : "The event on this page is not the one that was hashed."]);
    } catch (error) { results.push([false, `The stored entry cannot be read: ${error.message}.`]); }
    const leaf = await sha256([0], entry);
    const [origin, size, encoded] = given.checkpoint.split("\n");
    const top = await root(leaf, given.index, size, given.hashes.map(bytes));
    const inside = top !== null && hex(top) === hex(bytes(encoded)) && given.index + 1 === shown.position;
    results.push([inside, inside ? `It is event ${shown.position} of the ${size} under the checkpoint's root.` : "It is not under the checkpoint's root: the log was altered, or the proof is false."]);
    let problem;
    try { problem = await signed(given.checkpoint, document.getElementById("vkey").value); } catch (error) { problem = `This browser cannot check it: ${error.message}.`; }
    results.push([!problem, problem || `The checkpoint was signed by ${origin}.`]);
    list.replaceChildren(...results.map(([good, words]) => { const item = document.createElement("li"); item.className = good ? "good" : "problem"; item.textContent = (good ? "✓ " : "✗ ") + words; return item; }));
    list.dataset.verified = String(results.every(([good]) => good));
  }
  document.getElementById("vkey").addEventListener("input", check);
  await check();
})();
