//! Makes rows of the change log readable, for `rte.sync_log`.

use crate::capture::{self, Image, Key};
use crate::compat;
use crate::encode::{self, ValueEncoder};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;

/// The key of a captured row as a JSON object, or nothing where the table is gone or has changed since.
#[pg_extern(sql = false)]
fn rte_change_key(
    relation: Option<Oid>,
    fingerprint: Option<i64>,
    new_row: Option<&[u8]>,
    old_row: Option<&[u8]>,
) -> Option<String> {
    let (relation, fingerprint, bytes) = (relation?, fingerprint?, new_row.or(old_row)?);
    // SAFETY: the relation is opened and closed here; the image is read only under its fingerprint.
    unsafe {
        let rel = pg_sys::try_table_open(relation, pg_sys::AccessShareLock as i32);
        if rel.is_null() {
            return None;
        }
        let key = match capture::key_of(rel) {
            Key::Columns(key) if capture::fingerprint((*rel).rd_att) == fingerprint => Some(key),
            _ => None,
        };
        let out = key.map(|key| {
            let mut image = Image::new(bytes);
            let (mut values, mut nulls) = (Vec::new(), Vec::new());
            image.deform((*rel).rd_att, &mut values, &mut nulls);
            let mut out = vec![b'{'];
            for (place, number) in key.iter().enumerate() {
                let i = *number as usize - 1;
                let a = compat::attribute((*rel).rd_att, i);
                if place > 0 {
                    out.push(b',');
                }
                encode::append_json_string(&mut out, compat::name(&a.attname).as_bytes());
                out.push(b':');
                if nulls[i] {
                    encode::append_null(&mut out);
                } else {
                    ValueEncoder::new(a.atttypid, a.atttypmod).append(&mut out, values[i]);
                }
            }
            out.push(b'}');
            String::from_utf8_lossy(&out).into_owned()
        });
        pg_sys::table_close(rel, pg_sys::AccessShareLock as i32);
        out
    }
}
