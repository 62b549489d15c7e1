//! The `changes` frames of a shape: what a tick's changes come to for those who hold it.
//!
//! Where a row changes more than once, the versions in between are left out: inside a transaction nobody but its writer
//! ever saw them. Invariant: a key is told to be gone only where the row was in the shape before the tick or between two of
//! its transactions, which a snapshot that was taken meanwhile may hold. Pure.

use rte_protocol::bridge::ShapeId;
use std::collections::HashMap;

/// A `changes` frame is closed at about this size, so that a client can parse while the rest is on its way.
const FRAME: usize = 1 << 20;

/// A growing list of `changes` frames of a shape.
#[derive(Default)]
pub struct Frames {
    pub whole: Vec<Frame>,
    open: Vec<u8>,
    count: u32,
    /// Bytes of the whole ones.
    closed: usize,
    /// Where rows may change more than once.
    net: Option<Net>,
}

/// A `changes` text frame.
pub struct Frame {
    pub bytes: Vec<u8>,
    pub changes: u32,
}

/// What is known of each row that changed.
#[derive(Default)]
struct Net {
    rows: Vec<NetRow>,
    places: HashMap<Box<[u8]>, usize>,
    truncated: bool,
    /// Whose changes are coming.
    transaction: u64,
    /// Bytes of keys and values, about; what was replaced included.
    bytes: usize,
}

/// What a row of [`Net`] costs besides its bytes, about.
const NET_ROW: usize = 160;

struct NetRow {
    key: Box<[u8]>,
    /// Whether clients may hold it: it was in the shape at the start, or after some transaction.
    held: bool,
    /// Whose change was the last.
    transaction: u64,
    now: Now,
}

enum Now {
    /// JSON values of the shape's columns.
    Row(Vec<Vec<u8>>),
    /// JSON of the whole row.
    Json(Vec<u8>),
    /// Places of columns, and their JSON values.
    Set(Vec<(usize, Vec<u8>)>),
    /// It is found out at the end of the tick.
    Uncertain,
    Gone,
}

impl Frames {
    /// For changes among which rows may come more than once.
    pub fn net() -> Self {
        Self { net: Some(Net::default()), ..Self::default() }
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        self.closed + self.open.len() + self.net.as_ref().map_or(0, |net| net.bytes)
    }

    /// Whether the functions for single values are to be used.
    pub fn is_net(&self) -> bool {
        self.net.is_some()
    }

    /// The changes of another transaction follow.
    pub fn of_transaction(&mut self, transaction: u64) {
        if let Some(net) = &mut self.net {
            net.transaction = transaction;
        }
    }

    /// Where the next change is written to, as it is sent.
    pub fn next(&mut self, shape: ShapeId) -> &mut Vec<u8> {
        if self.open.len() > FRAME {
            self.close_one(shape);
        }
        self.open.push(if self.count == 0 { b'[' } else { b',' });
        self.count += 1;
        &mut self.open
    }

    pub fn truncate(&mut self, shape: ShapeId) {
        match &mut self.net {
            Some(net) => {
                net.rows.clear();
                net.places.clear();
                net.truncated = true;
            }
            None => self.next(shape).extend_from_slice(br#"{"op":"truncate"}"#),
        }
    }

    /// A change of a row follows. `held`: whether clients may hold it as it was before. Of a row's first change that counts, whether
    /// or not it is told: what is found out of later ones may hold within their transaction alone.
    pub fn net_begin(&mut self, key: &[u8], held: bool) {
        if let Some(net) = &mut self.net
            && !net.places.contains_key(key)
        {
            let row = net.row(key, held);
            if row.held {
                row.now = Now::Uncertain;
            }
        }
    }

    /// A row enters, or replaces what was there, by the values of its columns.
    pub fn net_row(&mut self, key: &[u8], values: Vec<Vec<u8>>) {
        if let Some(net) = &mut self.net {
            net.bytes += values.iter().map(Vec::len).sum::<usize>();
            net.row(key, false).now = Now::Row(values);
        }
    }

    /// A row that stays has other values; `set`: places of columns, and values.
    pub fn net_set(&mut self, key: &[u8], set: Vec<(usize, Vec<u8>)>) {
        let Some(net) = &mut self.net else { return };
        net.bytes += set.iter().map(|(_, value)| value.len()).sum::<usize>();
        let row = net.row(key, true);
        match &mut row.now {
            Now::Row(values) => set.into_iter().for_each(|(place, value)| values[place] = value),
            Now::Set(before) => {
                before.retain(|(place, _)| !set.iter().any(|(other, _)| other == place));
                before.extend(set);
            }
            Now::Json(_) | Now::Uncertain | Now::Gone => row.now = Now::Set(set),
        }
    }

    /// A change of a row of which it is found out at the end of the tick whether it is in the shape. `held`: it may have been.
    pub fn net_uncertain(&mut self, key: &[u8], held: bool) {
        if let Some(net) = &mut self.net {
            net.row(key, held).now = Now::Uncertain;
        }
    }

    /// A row enters, or replaces what was there, as JSON.
    pub fn put(&mut self, shape: ShapeId, key: &[u8], row: &[u8]) {
        if let Some(net) = &mut self.net {
            let transaction = net.transaction_of(key);
            net.transaction = transaction;
            net.bytes += row.len();
            net.row(key, false).now = Now::Json(row.to_vec());
        } else {
            write_insert(self.next(shape), row);
        }
    }

    /// A row leaves.
    pub fn remove(&mut self, shape: ShapeId, key: &[u8]) {
        match &mut self.net {
            Some(net) => net.row(key, true).now = Now::Gone,
            None => write_delete(self.next(shape), key),
        }
    }

    /// A row leaves after all changes were looked at: its last change is the one that decided.
    pub fn remove_at_last(&mut self, shape: ShapeId, key: &[u8]) {
        if let Some(net) = &mut self.net {
            net.transaction = net.transaction_of(key);
        }
        self.remove(shape, key);
    }

    /// Closes the last frame. `names`: of the shape's columns, as JSON strings.
    pub fn close(&mut self, shape: ShapeId, names: &[Vec<u8>]) {
        if let Some(net) = self.net.take() {
            if net.truncated {
                self.next(shape).extend_from_slice(br#"{"op":"truncate"}"#);
            }
            for row in net.rows {
                match row.now {
                    Now::Row(values) => {
                        let mut json = vec![b'['];
                        json.extend(values.join(&b','));
                        json.push(b']');
                        write_insert(self.next(shape), &json);
                    }
                    Now::Json(json) => write_insert(self.next(shape), &json),
                    Now::Set(set) => write_update(self.next(shape), &row.key, &set, names),
                    Now::Gone if row.held => write_delete(self.next(shape), &row.key),
                    Now::Uncertain | Now::Gone => {}
                }
            }
        }
        self.close_one(shape);
    }

    fn close_one(&mut self, shape: ShapeId) {
        if self.count > 0 {
            self.open.push(b']');
            let bytes = rte_protocol::wire::changes_frame(&format!("s{shape}"), &self.open);
            self.closed += bytes.len();
            self.whole.push(Frame { bytes, changes: self.count });
            self.open.clear();
            self.count = 0;
        }
    }
}

impl Net {
    /// The row of a key, in the transaction of the change. `held`: whether clients may hold one that did not change yet.
    fn row(&mut self, key: &[u8], held: bool) -> &mut NetRow {
        let transaction = self.transaction;
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => {
                let held = held && !self.truncated;
                self.bytes += 2 * key.len() + NET_ROW;
                self.places.insert(key.into(), self.rows.len());
                self.rows.push(NetRow { key: key.into(), held, transaction, now: Now::Gone });
                return &mut self.rows[self.places.len() - 1];
            }
        };
        let row = &mut self.rows[place];
        if row.transaction != transaction {
            row.held |= !matches!(row.now, Now::Gone);
            row.transaction = transaction;
        }
        row
    }

    fn transaction_of(&self, key: &[u8]) -> u64 {
        self.places.get(key).map_or(self.transaction, |place| self.rows[*place].transaction)
    }
}

fn write_insert(out: &mut Vec<u8>, row: &[u8]) {
    out.extend_from_slice(br#"{"op":"insert","row":"#);
    out.extend_from_slice(row);
    out.push(b'}');
}

fn write_update(out: &mut Vec<u8>, key: &[u8], set: &[(usize, Vec<u8>)], names: &[Vec<u8>]) {
    out.extend_from_slice(br#"{"op":"update","key":"#);
    out.extend_from_slice(key);
    out.extend_from_slice(br#","set":{"#);
    for (n, (place, value)) in set.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&names[*place]);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"}}");
}

fn write_delete(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(br#"{"op":"delete","key":"#);
    out.extend_from_slice(key);
    out.push(b'}');
}
