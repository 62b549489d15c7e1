//! A shape: what of a table a subscription sees, and how a change looks in it.
//!
//! A change is encoded once per shape, whoever subscribes to it. Old and new row decide together: a row enters the shape,
//! leaves it, or stays. Where a change alone does not tell, its key is *touched*, and Postgres is asked at the end of the
//! tick ([`super::asked`]). Main thread only.

use super::asked::{Asked, Touched};
use super::frames::Frames;
use super::registry::{self, Definition, Refusal, Selection};
use super::rows::{Row, Rows, Stale};
use crate::access::filter::{Filter, Verdict};
use crate::access::identity::Identity;
use crate::access::read::Reading;
use crate::changelog::Op;
use crate::compat;
use crate::encode::{self, ValueEncoder};
use pgrx::pg_sys::{Datum, Oid};
use rte_protocol::bridge::{JobId, SessionId, ShapeId};
use std::rc::Rc;

pub struct Shape {
    pub id: ShapeId,
    pub table: Oid,
    numbers: Vec<i16>,
    /// Names as JSON strings, in the order of `numbers`.
    pub names: Vec<Vec<u8>>,
    encoders: Vec<ValueEncoder>,
    key: Vec<i16>,
    key_encoders: Vec<ValueEncoder>,
    pub definition: Rc<Definition>,
    pub kind: Kind,
    /// How Postgres is asked for rows, and as whom; equal for all who share the shape, as far as the answer goes.
    pub reading: Reading,
    pub identity: Rc<Identity>,
    /// Keys of which the changes of this tick do not tell enough.
    pub touched: Touched,
    /// Jobs whose snapshots were not taken yet as of the last tick, where Postgres is asked for the rows.
    pub joins: Vec<Joining>,
    /// Whether one of those may have been taken between two changes: it may show what was there for a moment, of which nobody
    /// knows any more.
    pub torn: bool,
    /// Whether a truncation or a change of memberships makes all of it uncertain.
    pub uncertain: bool,
    /// Subscriptions.
    pub users: usize,
}

/// A subscription whose snapshot was ordered.
pub struct Joining {
    pub job: JobId,
    pub session: SessionId,
    pub id: String,
}

/// How a shape's rows are told from others.
pub enum Kind {
    /// Every row.
    Whole,
    /// On the row alone.
    Filtered(Filter),
    /// Postgres is asked.
    Asked(Asked),
}

impl Shape {
    pub fn new(id: ShapeId, selection: &Selection, kind: Kind, reading: Reading, identity: Rc<Identity>) -> Self {
        let encoder = |number: &i16| {
            // SAFETY: numbers are of attributes of this descriptor.
            let a = unsafe { compat::attribute(selection.definition.desc, *number as usize - 1) };
            ValueEncoder::new(a.atttypid, a.atttypmod)
        };
        let json = |name: &str| {
            let mut out = Vec::new();
            encode::append_json_string(&mut out, name.as_bytes());
            out
        };
        Self {
            id,
            table: selection.table,
            names: selection.columns.iter().map(|c| json(&c.name)).collect(),
            encoders: selection.numbers.iter().map(encoder).collect(),
            key_encoders: selection.key.iter().map(encoder).collect(),
            numbers: selection.numbers.clone(),
            key: selection.key.clone(),
            definition: selection.definition.clone(),
            kind,
            reading,
            identity,
            touched: Touched::default(),
            joins: Vec::new(),
            torn: false,
            uncertain: false,
            users: 0,
        }
    }

    /// Attribute numbers of the key.
    pub fn key(&self) -> &[i16] {
        &self.key
    }

    /// Places of the key's columns among the shape's.
    pub fn key_places(&self) -> Vec<usize> {
        self.key.iter().filter_map(|key| self.numbers.iter().position(|number| number == key)).collect()
    }

    /// Places of the columns of these names, in the shape's order.
    ///
    /// # Errors
    /// One of them is not the shape's.
    pub fn places_of(&self, names: &[String]) -> Result<Vec<usize>, Refusal> {
        registry::places(names, |name| {
            let mut json = Vec::new();
            encode::append_json_string(&mut json, name.as_bytes());
            self.names.iter().position(|known| *known == json)
        })
    }

    /// Whether evaluating the shape may raise an error of its own.
    pub fn may_fail(&self) -> bool {
        matches!(self.kind, Kind::Filtered(_))
    }

    /// Appends a change as this shape sees it.
    pub fn encode(&mut self, rows: &Rows<'_>, frames: &mut Frames) -> Result<(), Stale> {
        frames.of_transaction(rows.change.xid);
        match &mut self.kind {
            Kind::Whole => self.encode_whole(rows, frames),
            Kind::Filtered(filter) => {
                let lacks = |c| rows.lacks(c);
                if rows.change.op != Op::Truncate && filter.is_blind(&lacks) {
                    return Err(Stale);
                }
                self.encode_filtered(rows, frames);
            }
            // As long as nothing was read nobody holds anything, and what is read then has the change.
            Kind::Asked(asked) if !asked.is_loaded() => {}
            Kind::Asked(_) => self.touch_rows(rows),
        }
        Ok(())
    }

    fn encode_whole(&mut self, rows: &Rows<'_>, frames: &mut Frames) {
        match rows.change.op {
            Op::Insert => self.insert(frames, rows.new_row()),
            Op::Update if rows.moves(&self.key) => {
                // The row left one key and came to another.
                self.delete(frames, &self.old_key(rows));
                self.insert(frames, rows.new_row());
            }
            Op::Update => self.update(frames, rows),
            Op::Delete => self.delete(frames, &self.old_key(rows)),
            Op::Truncate => frames.truncate(self.id),
            Op::TruncatePart | Op::Redefined | Op::Access | Op::Read | Op::Gap | Op::Bulk => {}
        }
    }

    fn encode_filtered(&mut self, rows: &Rows<'_>, frames: &mut Frames) {
        let Kind::Filtered(filter) = &mut self.kind else { return };
        let lacks = |c| rows.lacks(c);
        // SAFETY: rows of the definition that the filter was made for: their fingerprint was compared.
        let (old, new) = unsafe {
            let old = matches!(rows.change.op, Op::Update | Op::Delete).then(|| {
                let (values, nulls) = rows.old_row();
                filter.verdict(values, nulls, &lacks)
            });
            let new = matches!(rows.change.op, Op::Insert | Op::Update).then(|| {
                let row = rows.new_row();
                filter.verdict(&row.values, &row.nulls, &lacks)
            });
            (old, new)
        };
        // Who may see a row that is gone may know that it is.
        let was_in = old.is_some_and(|v| v != Verdict::Out);
        if frames.is_net() {
            self.begin_net(rows, was_in, frames);
        }
        match (rows.change.op, new) {
            (Op::Truncate, _) => frames.truncate(self.id),
            (Op::Delete, _) if was_in => self.delete(frames, &self.old_key(rows)),
            (Op::Insert, Some(Verdict::In)) => self.insert(frames, rows.new_row()),
            (Op::Update, Some(new)) if rows.moves(&self.key) => {
                if was_in {
                    self.delete(frames, &self.old_key(rows));
                }
                if new == Verdict::In {
                    self.insert(frames, rows.new_row());
                }
            }
            (Op::Update, Some(new)) => match (old.unwrap_or(Verdict::Out), new) {
                (Verdict::Out, Verdict::Out) => {}
                (Verdict::In, Verdict::In) => self.update(frames, rows),
                (Verdict::In, Verdict::Out) => self.delete(frames, &self.old_key(rows)),
                (Verdict::Out, Verdict::In) if !self.numbers.iter().any(|n| rows.lacks(*n)) => {
                    self.insert(frames, rows.new_row());
                }
                // It enters with values that the change does not hold, or only they would tell.
                _ => {
                    let key = self.new_key(rows);
                    frames.net_uncertain(&self.key_json(&key), was_in);
                    self.touch(&key, was_in);
                }
            },
            _ => {}
        }
    }

    fn begin_net(&mut self, rows: &Rows<'_>, was_in: bool, frames: &mut Frames) {
        let moves = rows.moves(&self.key);
        if rows.change.op == Op::Delete || moves {
            let key = self.old_key(rows);
            frames.net_begin(&self.key_json(&key), was_in);
        }
        if matches!(rows.change.op, Op::Insert | Op::Update) {
            let key = self.new_key(rows);
            frames.net_begin(&self.key_json(&key), was_in && !moves);
        }
    }

    /// Notes the keys that a change concerns.
    fn touch_rows(&mut self, rows: &Rows<'_>) {
        match rows.change.op {
            Op::Insert => self.touch(&self.new_key(rows), false),
            Op::Update => {
                if rows.moves(&self.key) {
                    self.touch(&self.old_key(rows), false);
                }
                self.touch(&self.new_key(rows), false);
            }
            Op::Delete => self.touch(&self.old_key(rows), false),
            Op::Truncate | Op::TruncatePart => self.uncertain = true,
            Op::Redefined | Op::Access | Op::Read | Op::Gap | Op::Bulk => {}
        }
    }

    fn touch(&mut self, key: &[Option<Datum>], had: bool) {
        let json = self.key_json(key);
        self.touched.add(json, key, had, &self.key, self.definition.desc);
    }

    fn new_key(&self, rows: &Rows<'_>) -> Vec<Option<Datum>> {
        self.key.iter().map(|k| rows.new_row().get(*k)).collect()
    }

    fn old_key(&self, rows: &Rows<'_>) -> Vec<Option<Datum>> {
        self.key.iter().map(|k| rows.old_value(*k)).collect()
    }

    fn insert(&mut self, frames: &mut Frames, row: &Row) {
        let values: Vec<Option<Datum>> = self.numbers.iter().map(|number| row.get(*number)).collect();
        if frames.is_net() {
            let key: Vec<Option<Datum>> = self.key.iter().map(|k| row.get(*k)).collect();
            let key = self.key_json(&key);
            let values = values.iter().zip(&mut self.encoders).map(|(value, encoder)| json(encoder, *value)).collect();
            frames.net_row(&key, values);
            return;
        }
        let out = frames.next(self.id);
        out.extend_from_slice(br#"{"op":"insert","row":"#);
        self.append_row(out, &values);
        out.push(b'}');
    }

    /// The JSON of a row, given as the shape's columns.
    pub fn row(&mut self, values: &[Option<Datum>]) -> Vec<u8> {
        let mut out = Vec::new();
        self.append_row(&mut out, values);
        out
    }

    fn append_row(&mut self, out: &mut Vec<u8>, values: &[Option<Datum>]) {
        out.push(b'[');
        for (place, (value, encoder)) in values.iter().zip(&mut self.encoders).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            append(out, encoder, *value);
        }
        out.push(b']');
    }

    /// Appends an update, where it changed something that the shape has.
    fn update(&mut self, frames: &mut Frames, rows: &Rows<'_>) {
        if !self.numbers.iter().any(|n| rows.mask.changed(*n)) {
            return;
        }
        let key = self.new_key(rows);
        if frames.is_net() {
            let places = self.numbers.iter().zip(&mut self.encoders).enumerate();
            let changed = places.filter(|(_, (number, _))| rows.mask.changed(**number));
            let set =
                changed.map(|(place, (number, encoder))| (place, json(encoder, rows.new_row().get(*number)))).collect();
            frames.net_set(&self.key_json(&key), set);
            return;
        }
        let out = frames.next(self.id);
        out.extend_from_slice(br#"{"op":"update","key":"#);
        self.append_key(out, &key);
        out.extend_from_slice(br#","set":{"#);
        let mut first = true;
        for (place, (number, encoder)) in self.numbers.iter().zip(&mut self.encoders).enumerate() {
            if !rows.mask.changed(*number) {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&self.names[place]);
            out.push(b':');
            append(out, encoder, rows.new_row().get(*number));
        }
        out.extend_from_slice(b"}}");
    }

    fn delete(&mut self, frames: &mut Frames, key: &[Option<Datum>]) {
        let key = self.key_json(key);
        frames.remove(self.id, &key);
    }

    fn key_json(&mut self, key: &[Option<Datum>]) -> Vec<u8> {
        let mut json = Vec::new();
        self.append_key(&mut json, key);
        json
    }

    /// The keys in JSON that a change is about.
    pub fn keys_of(&mut self, rows: &Rows<'_>) -> [Option<Vec<u8>>; 2] {
        let new = matches!(rows.change.op, Op::Insert | Op::Update).then(|| self.new_key(rows));
        let old = (rows.change.op == Op::Delete || rows.moves(&self.key)).then(|| self.old_key(rows));
        [new, old].map(|key| key.map(|key| self.key_json(&key)))
    }

    /// Appends a key as JSON.
    pub fn append_key(&mut self, out: &mut Vec<u8>, key: &[Option<Datum>]) {
        out.push(b'[');
        for (place, (value, encoder)) in key.iter().zip(&mut self.key_encoders).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            append(out, encoder, *value);
        }
        out.push(b']');
    }
}

fn json(encoder: &mut ValueEncoder, value: Option<Datum>) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out, encoder, value);
    out
}

fn append(out: &mut Vec<u8>, encoder: &mut ValueEncoder, value: Option<Datum>) {
    match value {
        None => encode::append_null(out),
        // SAFETY: a value of the encoder's type.
        Some(value) => unsafe { encoder.append(out, value) },
    }
}
