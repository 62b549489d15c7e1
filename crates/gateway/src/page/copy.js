// The copy: what rte.v1 says that a client holds.

/** One subscription's copy of a table. Frames are staged by `receive` and take effect in `commit`. */
class Copy {
  constructor(id, table) {
    this.id = id;
    this.table = table;
    this.columns = [];
    this.keyIndex = [];
    this.rows = new Map();      // key text → row {id, sort, values, touched, gone}
    this.sorted = [];           // by key; rebuilt lazily from `added` and `gone`
    this.added = [];
    this.removed = 0;
    this.recent = new Map();    // key text → row, in order of the last change; bounded
    this.stage = null;          // rows of a snapshot under way
    this.stageDone = false;
    this.expected = 0;          // the server's estimate of the snapshot's rows
    this.pending = [];          // arrays of changes that wait for their commit
    this.ready = false;
    this.tally = { entered: 0, left: 0, changed: 0 }; // rows, since it was read first
  }

  subscribed(message) {
    const columns = JSON.stringify([message.columns, message.key]);
    this.layoutChanged = columns !== this.layout;
    this.layout = columns;
    this.columns = message.columns;
    this.key = message.key;
    const place = new Map(message.columns.map((column, i) => [column.name, i]));
    this.place = place;
    this.keyIndex = message.key.map((name) => place.get(name));
    this.keyTypes = this.keyIndex.map((i) => this.columns[i].type);
    this.pending = [];
    if (message.resumed) { this.stage = null; this.ready = true; return; }
    this.stage = [];
    this.stageDone = false;
    this.expected = 0;
    if (this.layoutChanged) { this.clear(); this.ready = false; } // old rows do not fit new columns
  }

  /** The copy stays as it is until it is replaced. */
  resync() {
    this.pending = [];
    this.stage = [];
    this.stageDone = false;
  }

  snapshot(message) {
    if (!this.stage) return;
    for (const row of message.rows) this.stage.push(row);
    if (message.total != null) this.expected = message.total;
    if (message.done) this.stageDone = true;
  }

  /** Takes everything since the last commit into the copy; returns how many changes that were. */
  commit(now) {
    let count = 0;
    if (this.stage && this.stageDone) {
      this.clear();
      for (const values of this.stage) this.put(values, 0);
      this.stage = null;
      this.ready = true;
      this.replaced = true;
    }
    if (this.stage) return 0; // a snapshot still under way: its changes wait for it
    for (const changes of this.pending) {
      count += changes.length;
      for (const change of changes) this.apply(change, now);
    }
    this.pending = [];
    return count;
  }

  apply(change, now) {
    switch (change.op) {
      case "insert": this.put(change.row, now); break;
      case "update": {
        const row = this.rows.get(keyText(change.key));
        if (!row) break;
        for (const name in change.set) {
          const i = this.place.get(name);
          if (i === undefined) continue;
          row.values[i] = change.set[name];
          if (now) (row.touched ||= []) [i] = now;
        }
        this.tally.changed++;
        this.note(row);
        break;
      }
      case "delete": {
        const id = keyText(change.key);
        const row = this.rows.get(id);
        if (!row) break;
        this.rows.delete(id);
        this.recent.delete(id);
        row.gone = true;
        this.removed++;
        this.tally.left++;
        break;
      }
      case "truncate": this.tally.left += this.rows.size; this.clear(); break;
    }
  }

  put(values, now) {
    const key = this.keyIndex.map((i) => values[i]);
    const id = keyText(key);
    const old = this.rows.get(id);
    if (old) {
      if (now) {
        old.touched ||= [];
        for (let i = 0; i < values.length; i++) if (!same(old.values[i], values[i])) old.touched[i] = now;
      }
      old.values = values;
      if (now) { this.note(old); this.tally.changed++; }
      return;
    }
    const row = { id, sort: key.map((value, i) => sortable(value, this.keyTypes[i])), values, touched: null, born: now, gone: false };
    this.rows.set(id, row);
    this.added.push(row);
    if (now) { this.note(row); this.tally.entered++; }
  }

  note(row) {
    this.recent.delete(row.id);
    this.recent.set(row.id, row);
    if (this.recent.size > 400) { // trimmed in one go, so the cost per change stays flat
      let surplus = this.recent.size - 200;
      for (const id of this.recent.keys()) { if (surplus-- <= 0) break; this.recent.delete(id); }
    }
  }

  clear() {
    this.rows.clear();
    this.recent.clear();
    this.sorted = [];
    this.added = [];
    this.removed = 0;
  }

  /** All rows by key. Merges what came since the last call, so a frame costs O(n) at worst, not a sort. */
  byKey() {
    if (this.removed) { this.sorted = this.sorted.filter((row) => !row.gone); this.removed = 0; }
    if (this.added.length) {
      const fresh = this.added.filter((row) => !row.gone).sort(byKeyOrder);
      this.added = [];
      const old = this.sorted;
      if (!old.length || (fresh.length && byKeyOrder(old[old.length - 1], fresh[0]) < 0)) {
        if (old.length) for (const row of fresh) old.push(row); else this.sorted = fresh;
      } else if (fresh.length) {
        const merged = new Array(old.length + fresh.length);
        let i = 0, j = 0, k = 0;
        while (i < old.length && j < fresh.length) merged[k++] = byKeyOrder(old[i], fresh[j]) <= 0 ? old[i++] : fresh[j++];
        while (i < old.length) merged[k++] = old[i++];
        while (j < fresh.length) merged[k++] = fresh[j++];
        this.sorted = merged;
      }
    }
    return this.sorted;
  }

  byChange() { return [...this.recent.values()].reverse().slice(0, 200); }
}

function keyText(key) { return key.length === 1 ? String(key[0]) : JSON.stringify(key); }

function sortable(value, type) {
  if (type === "int8" && typeof value === "string") { const n = Number(value); return Number.isSafeInteger(n) ? n : BigInt(value); }
  if (NUMERIC.has(type) && typeof value === "string") { const n = Number(value); return Number.isNaN(n) ? Infinity : n; }
  return typeof value === "object" && value !== null ? JSON.stringify(value) : value;
}

function byKeyOrder(a, b) {
  for (let i = 0; i < a.sort.length; i++) {
    if (a.sort[i] < b.sort[i]) return -1;
    if (a.sort[i] > b.sort[i]) return 1;
  }
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}

function same(a, b) { return a === b || (typeof a === "object" && typeof b === "object" && JSON.stringify(a) === JSON.stringify(b)); }
