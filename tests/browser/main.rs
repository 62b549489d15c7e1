//! The browser client in a real Chromium, against a real server. The scenarios are scripts in `client/test/browser`; what
//! they need of the server's side, they ask for.
//!
//! Needs Node with `client/node_modules`, and a Chromium: `RTE_CHROMIUM`, or the one on the path.

mod stage;

use rte_testkit::{Builder, Cluster, seed};
use stage::Stage;

/// Pages are of another origin than the gateway's, as an application's are.
fn cluster() -> Builder {
    Cluster::builder().conf("rte.allowed_origins", "*")
}

#[test]
fn stored_copies_are_one_snapshot_at_every_moment_whatever_dies() {
    Stage::new(cluster(), "exact", seed("browser exact")).with_accounts().play();
}

#[test]
fn a_copy_that_was_away_for_too_long_is_replaced_in_one_step() {
    Stage::new(cluster().conf("rte.max_log_size", "8MB"), "away", seed("browser away")).with_accounts().play();
}

#[test]
fn columns_come_and_go_under_live_pages_without_a_reload() {
    Stage::new(cluster(), "schema", seed("browser schema")).play();
}

#[test]
fn one_tab_connects_for_all_and_another_takes_over() {
    Stage::new(cluster(), "tabs", seed("browser tabs")).play();
}

#[test]
fn each_user_has_a_store_of_their_own() {
    Stage::new(cluster().tokens(), "identity", seed("browser identity")).play();
}

#[test]
fn a_page_without_storage_or_with_too_little_goes_on_in_memory() {
    Stage::new(cluster(), "storage", seed("browser storage")).play();
}

#[test]
fn where_websockets_are_blocked_events_and_polls_are_as_exact() {
    Stage::new(cluster(), "fallback", seed("browser fallback")).with_accounts().play();
}

#[test]
fn rows_that_were_altered_in_the_browser_are_found_and_fetched_again() {
    Stage::new(cluster(), "verify", seed("browser verify")).with_accounts().play();
}

/// Prints a table for docs/BENCHMARKS.md; `RTE_ROUNDS` and `RTE_ROWS` say how much.
#[test]
#[ignore = "a measurement, for a machine that does nothing else"]
fn what_the_client_costs_a_page() {
    Stage::new(cluster(), "figures", seed("browser figures")).play();
}
