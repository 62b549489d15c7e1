//! Somebody whom the authenticator acts as: what a token says of him, and what Postgres shows to him.
//!
//! The oracle of access: a plain session of the authenticator that sets role and claims as PostgREST does and selects.
//! The product takes no part in it.

use serde_json::{Value, json};

use crate::client::Subscription;
use crate::compare::{difference_to, literal, select_list};
use crate::json::canonical;
use crate::sql::Sql;
use crate::token::{token_of, unix_now};

/// A role and its claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A JSON object, with the role as `role`.
    pub claims: Value,
}

impl Actor {
    /// An actor for an hour. `claims`: a JSON object.
    #[must_use]
    pub fn new(role: &str, claims: Value) -> Self {
        let mut claims = claims;
        claims["role"] = role.into();
        claims["exp"] = json!(unix_now() + 3600);
        Self { claims }
    }

    #[must_use]
    pub fn role(&self) -> &str {
        self.claims["role"].as_str().unwrap_or_default()
    }

    #[must_use]
    pub fn token(&self) -> String {
        token_of(&self.claims)
    }

    /// Statements that make a transaction of the authenticator's the actor's.
    #[must_use]
    pub fn assume(&self) -> String {
        let (role, claims) = (self.role().replace('"', "\"\""), literal(&self.claims.to_string()));
        format!("SET LOCAL ROLE \"{role}\"; SELECT set_config('request.jwt.claims', {claims}, true)")
    }

    /// What Postgres shows to the actor of a table, as clients hold it, sorted. `sql`: a session of the authenticator.
    ///
    /// # Errors
    /// SQLSTATE and message where it may not.
    ///
    /// # Panics
    /// When the session fails otherwise.
    pub fn sees(
        &self,
        sql: &mut Sql,
        table: &str,
        columns: &[String],
        condition: &str,
    ) -> Result<Vec<String>, (String, String)> {
        let list = select_list(sql, table, columns);
        let query = format!(
            "BEGIN READ ONLY; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; SET LOCAL extra_float_digits = 1; {};
             SELECT {list}, 'row' FROM {table} WHERE {condition}",
            self.assume()
        );
        let found = sql.simple_query(&query);
        let end = sql.batch_execute("ROLLBACK");
        end.unwrap_or_else(|e| panic!("{query}\n{e:?}"));
        match found {
            Err(e) => match e.as_db_error() {
                Some(e) => Err((e.code().code().to_owned(), e.message().to_owned())),
                None => panic!("{query}\n{e:?}"),
            },
            Ok(messages) => {
                let row = |m| match m {
                    // What `set_config` answers has one column.
                    postgres::SimpleQueryMessage::Row(row) if row.len() == 2 => {
                        Some(canonical(row.get(0).unwrap_or_default()).into_string())
                    }
                    _ => None,
                };
                let mut rows: Vec<String> = messages.into_iter().filter_map(row).collect();
                rows.sort_unstable();
                Ok(rows)
            }
        }
    }

    /// What differs between a subscription and what Postgres shows to the actor, or `None`. `condition`: the
    /// subscription's, with its parameters as literals.
    ///
    /// # Panics
    /// When the actor may not read the table.
    pub fn difference(&self, sql: &mut Sql, subscription: &Subscription, condition: &str) -> Option<String> {
        let columns: Vec<String> = subscription.columns.iter().map(|c| c.name.clone()).collect();
        match self.sees(sql, &subscription.table, &columns, condition) {
            Ok(rows) => difference_to(&rows, subscription),
            Err(why) => panic!("{} as {:?}: {why:?}", subscription.id, self.claims),
        }
    }
}
