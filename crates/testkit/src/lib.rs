//! The kit that the promises in `tests/` are tested with: throw-away Postgres clusters, a client of
//! `rte.v1` that checks every rule of the contract, barriers, and the comparison of a client's copy
//! with the tables.
//!
//! A test waits for a state, never for a time: the one place that sleeps is [`wait_until`]. Everything
//! here panics when a promise is broken, since only tests call it.

mod actor;
pub mod client;
mod cluster;
mod compare;
mod crowd;
pub mod expression;
mod home;
mod http;
mod json;
mod load;
mod process;
mod settings;
mod sql;
mod token;
mod wait;
pub mod witness;

pub use actor::Actor;
pub use client::{
    Ask, Client, ClientOptions, Closed, Copy, Counts, Failure, Row, Silent, State, Step, Subscription, Transport,
    Verdict, Watch, hash,
};
pub use cluster::{Builder, Cluster, Shutdown};
pub use compare::{assert_equal, difference, difference_to, expected_rows, held_rows, select_list};
pub use crowd::Crowd;
pub use http::{Response, get, request};
pub use json::canonical;
pub use load::{Pace, Pgbench, TPCB_TABLES, Tellers, TpcbSums};
pub use process::{Signal, alive, children, kill, rss_kb, with_cwd};
pub use settings::{Dice, captures_wal, rounds, seconds, seed};
pub use sql::{Door, Sql};
pub use token::{SECRET, TokenKey, token, token_of, unix_now};
pub use wait::{patience, wait_until, within};

/// Held by tests that measure a time or fill the machine, so that those of one file run one by one.
///
/// # Panics
/// Never: a test that failed while it held the lock does not matter to the next.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
