//! Writers: sessions whose transactions overlap, and that move rows between owners, tenants, teams and keys.

use crate::realm::Realm;
use crate::tables::{BIG, Table, WIDE, insert};
use rte_testkit::{Dice, Sql};

pub struct Writer {
    sql: Sql,
    realm: &'static Realm,
    open: bool,
    savepoints: u32,
}

impl Writer {
    pub fn new(mut sql: Sql, realm: &'static Realm, seed: f64) -> Self {
        sql.run(&format!("SET lock_timeout = '100ms'; SELECT setseed({seed})"));
        Self { sql, realm, open: false, savepoints: 0 }
    }

    /// One statement in the open transaction, or in a new one. Conflicts with others end it.
    pub fn step(&mut self, tables: &[Table], dice: &mut Dice) {
        if !self.open {
            let level = ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ"][dice.usize(..3)];
            self.sql.run(&format!("BEGIN ISOLATION LEVEL {level}"));
            (self.open, self.savepoints) = (true, 0);
        }
        let statement = match dice.u32(..12) {
            0 => {
                self.savepoints += 1;
                format!("SAVEPOINT s{}", self.savepoints)
            }
            1 if self.savepoints > 0 => format!("ROLLBACK TO s{}", dice.u32(1..=self.savepoints)),
            _ => statement(self.realm, tables, dice),
        };
        if self.sql.batch_execute(&statement).is_err()
            && (self.savepoints == 0 || self.sql.batch_execute(&format!("ROLLBACK TO s{}", self.savepoints)).is_err())
        {
            self.roll_back();
        }
    }

    pub fn roll_back(&mut self) {
        self.sql.run("ROLLBACK");
        self.open = false;
    }

    /// Ends the transaction, with a mark: the state that it makes. None where there is nothing to commit.
    pub fn commit(&mut self) -> Option<i32> {
        if !std::mem::replace(&mut self.open, false) {
            return None;
        }
        let mark = self.sql.simple_query("INSERT INTO kit_barrier DEFAULT VALUES RETURNING id");
        if mark.is_err() || self.sql.batch_execute("COMMIT").is_err() {
            self.sql.run("ROLLBACK");
            return None;
        }
        mark.ok()?.into_iter().find_map(|m| match m {
            postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        })
    }
}

fn statement(realm: &Realm, tables: &[Table], dice: &mut Dice) -> String {
    let table = tables[dice.usize(..tables.len())].name;
    let some = match dice.u32(..4) {
        0 => "team = 1".to_owned(),
        1 => "owner = 'ann'".to_owned(),
        _ => format!("id % 7 = {}", dice.u32(..7)),
    };
    let owner = "owner = (ARRAY['ann', 'bob', 'dan', 'eve'])[1 + (random() * 3)::int]";
    let tenant = format!("tenant = {}", realm.some_tenant());
    match dice.u32(..100) {
        0..=14 => insert(realm, table, dice.u32(1..4)),
        15..=24 => format!("DELETE FROM {table} WHERE {some}"),
        25..=36 => format!("UPDATE {table} SET {owner} WHERE {some}"),
        37..=46 => format!("UPDATE {table} SET {tenant} WHERE {some}"),
        47..=54 => format!("UPDATE {table} SET team = team % 3 + 1 WHERE {some}"),
        55..=60 => format!("UPDATE {table} SET open = NOT open WHERE {some}"),
        61..=66 => format!("UPDATE {table} SET id = nextval('token') WHERE {some}"),
        67..=71 => {
            format!("UPDATE {table} SET id = nextval('token'), {owner}, {tenant}, team = team % 3 + 1 WHERE {some}")
        }
        72..=75 => format!("UPDATE {table} SET part = 3 - part WHERE part IN (1, 2) AND {some}"),
        76..=80 => format!("UPDATE {table} SET wide = {WIDE} WHERE {some}"),
        81..=86 => format!("UPDATE {table} SET big = {BIG} WHERE {some}"),
        87..=92 => format!(
            "UPDATE {table} SET until = now() + (ARRAY[-3600, 1, 2, 3600])[1 + (random() * 3)::int] * interval '1 second' WHERE {some}"
        ),
        93..=94 => format!("UPDATE {table} SET owner = 'carl', tenant = NULL WHERE {some}"),
        _ => format!("UPDATE {table} SET note = 'n' || nextval('token') WHERE {some}"),
    }
}
