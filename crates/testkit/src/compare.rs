//! The oracle: what a copy must be, asked from Postgres itself.
//!
//! The values are encoded by SQL expressions that are made from each column's type (rule 6 of the
//! contract), so the product's own encoder takes no part in judging itself.

use std::collections::BTreeMap;

use crate::client::{Client, Row, Subscription};
use crate::json::canonical;
use crate::sql::Sql;

/// The SQL expression that encodes a column. `base` is the type below domains, as `format_type` names it.
fn expression(column: &str, base: &str) -> String {
    let c = quoted(column);
    match base {
        "bigint" => format!("{c}::text"),
        b if b.starts_with("numeric") && !b.ends_with("[]") => format!("{c}::text"),
        "bytea" => format!("replace(encode({c}, 'base64'), E'\\n', '')"),
        b if b.ends_with("[]") && (b.starts_with("bigint") || b.starts_with("numeric")) => {
            format!("to_json({c}::text[])")
        }
        _ => format!("to_json({c})"),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `json_build_array(…)` over these columns of a table.
#[must_use]
pub fn select_list(sql: &mut Sql, table: &str, columns: &[String]) -> String {
    let types: BTreeMap<String, String> = sql
        .texts(&format!(
            "WITH RECURSIVE base AS (
               SELECT attname, atttypid AS type FROM pg_attribute
               WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped
               UNION ALL SELECT attname, typbasetype FROM base JOIN pg_type t ON t.oid = type WHERE typtype = 'd')
             SELECT json_build_array(attname, format_type(type, NULL)) FROM base JOIN pg_type t ON t.oid = type
             WHERE typtype <> 'd'",
            literal(table)
        ))
        .iter()
        .filter_map(|pair| serde_json::from_str(pair).ok())
        .collect();
    let column = |c: &String| expression(c, types.get(c).map_or("", String::as_str));
    format!("json_build_array({})", columns.iter().map(column).collect::<Vec<_>>().join(", "))
}

/// The table's rows as a client must hold them, sorted.
#[must_use]
pub fn expected_rows(sql: &mut Sql, table: &str, columns: &[String]) -> Vec<String> {
    sql.run("SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1");
    let list = select_list(sql, table, columns);
    let mut rows: Vec<String> =
        sql.texts(&format!("SELECT {list} FROM {table}")).iter().map(|row| canonical(row).into()).collect();
    rows.sort_unstable();
    rows
}

/// The rows of a copy in the same form, sorted.
#[must_use]
pub fn held_rows(subscription: &Subscription) -> Vec<String> {
    let text = |row: &Row| format!("[{}]", row.iter().map(|v| &**v).collect::<Vec<_>>().join(","));
    let mut rows: Vec<String> = subscription.rows.values().map(text).collect();
    rows.sort_unstable();
    rows
}

/// What differs between a subscription and its table, or `None`.
#[must_use]
pub fn difference(sql: &mut Sql, subscription: &Subscription) -> Option<String> {
    let columns: Vec<String> = subscription.columns.iter().map(|c| c.name.clone()).collect();
    difference_to(&expected_rows(sql, &subscription.table, &columns), subscription)
}

/// What differs between a subscription and rows that [`expected_rows`] gave, or `None`.
#[must_use]
pub fn difference_to(expected: &[String], subscription: &Subscription) -> Option<String> {
    let held = held_rows(subscription);
    if expected == held {
        return None;
    }
    let cut = |s: &String| s.chars().take(300).collect::<String>();
    let missing: Vec<String> = expected.iter().filter(|r| held.binary_search(r).is_err()).take(3).map(cut).collect();
    let extra: Vec<String> = held.iter().filter(|r| expected.binary_search(r).is_err()).take(3).map(cut).collect();
    Some(format!(
        "{}: {} rows for {} in the table; in the table only: {missing:#?}; in the copy only: {extra:#?}",
        subscription.id,
        held.len(),
        expected.len()
    ))
}

/// Sets a barrier, waits for it, and compares all subscriptions with their tables. Writers must rest.
///
/// # Panics
/// When a copy differs.
#[track_caller]
pub fn assert_equal(sql: &mut Sql, client: &mut Client) {
    let mark = sql.barrier();
    client.wait_barrier(mark);
    for subscription in client.copy.subscriptions.values() {
        if let Some(difference) = difference(sql, subscription) {
            panic!("{}: {difference}", client.options.name);
        }
    }
}
