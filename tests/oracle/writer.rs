//! Random transactions: many statements, savepoints, rollbacks, prepared ones, key updates, truncates.

use rte_testkit::{Dice, Door, Sql, within};

use crate::schema::Table;

/// A writer with a session of its own. Each of its transactions also sets its rows of `l` and `r` to the
/// same number, which is what every commit of every client is checked for.
pub struct Writer<'a> {
    pub number: usize,
    pub tables: &'a [Table],
    pub door: Door,
    pub dice: Dice,
}

impl Writer<'_> {
    /// Runs this many transactions, over crashes of the server.
    pub fn run(&mut self, transactions: usize) {
        let mut session: Option<Sql> = None;
        for n in 0..transactions {
            while session.is_none() {
                session = within(std::time::Duration::from_secs(5), || self.door.knock("postgres").ok());
            }
            let Some(sql) = session.as_mut() else { continue };
            self.transaction(sql, n);
            if sql.is_closed() {
                session = None;
            }
        }
    }

    fn transaction(&mut self, sql: &mut Sql, n: usize) {
        let level = ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"][self.dice.usize(..4)];
        let mut failed = sql.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).is_err();
        let mut savepoints = 0;
        for _ in 0..self.dice.usize(1..8) {
            let statement = match self.dice.u32(..12) {
                0 | 1 => {
                    savepoints += 1;
                    format!("SAVEPOINT s{savepoints}")
                }
                2 if savepoints > 0 => format!("ROLLBACK TO s{}", self.dice.u32(1..=savepoints)),
                3 if savepoints > 0 => {
                    savepoints -= 1;
                    format!("RELEASE s{}", savepoints + 1)
                }
                _ => self.statement(),
            };
            if sql.batch_execute(&statement).is_ok() {
                continue;
            }
            // Conflicts and deadlocks are part of it: go back to a savepoint, or give up.
            failed = savepoints == 0 || sql.batch_execute(&format!("ROLLBACK TO s{savepoints}")).is_err();
            if failed {
                break;
            }
        }
        let mark = format!("{}{n:05}", self.dice.u32(1..1000));
        let ledger =
            format!("UPDATE l SET n = {mark} WHERE id = {0}; UPDATE r SET n = {mark} WHERE id = {0}", self.number);
        failed = failed || sql.batch_execute(&ledger).is_err();
        let end = match self.dice.u32(..12) {
            _ if failed => "ROLLBACK".to_owned(),
            0 | 1 => "ROLLBACK".to_owned(),
            2 => format!("PREPARE TRANSACTION 'p{0}'; COMMIT PREPARED 'p{0}'", self.number),
            3 => format!("PREPARE TRANSACTION 'p{0}'; ROLLBACK PREPARED 'p{0}'", self.number),
            _ => "COMMIT".to_owned(),
        };
        // A batch is one transaction unless it holds transaction commands, so prepared ones go one by one.
        for statement in end.split("; ") {
            if sql.batch_execute(statement).is_err() {
                let _ = sql.batch_execute("ROLLBACK");
                break;
            }
        }
    }

    fn statement(&mut self) -> String {
        let dice = &mut self.dice;
        let table = &self.tables[dice.usize(..self.tables.len())];
        let (name, names) = (&table.name, table.names());
        let key = table.columns[..table.keys].iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        let roll = dice.u32(..100);
        match roll {
            0 => format!("TRUNCATE {name}"),
            1..=5 => {
                // A key update; it may fail on a row that is there.
                let column = &table.columns[dice.usize(..table.keys)];
                let value = column.value(dice, true);
                format!("UPDATE {name} SET {} = {value} WHERE {}", column.name, table.condition(dice))
            }
            6..=15 => format!("DELETE FROM {name} WHERE {}", table.condition(dice)),
            16..=50 => {
                let column = &table.columns[dice.usize(table.keys..table.columns.len())];
                let value = column.value(dice, false);
                format!("UPDATE {name} SET {} = {value} WHERE {}", column.name, table.condition(dice))
            }
            51..=70 => {
                let last = &table.columns[table.columns.len() - 1].name;
                let rows: Vec<String> = (0..dice.usize(1..4)).map(|_| format!("({})", table.values(dice))).collect();
                // Two equal keys in one statement fail, as they should.
                format!(
                    "INSERT INTO {name} ({names}) VALUES {} ON CONFLICT ({key}) DO UPDATE SET {last} = excluded.{last}",
                    rows.join(", ")
                )
            }
            _ => format!("INSERT INTO {name} ({names}) VALUES ({}) ON CONFLICT DO NOTHING", table.values(dice)),
        }
    }
}
