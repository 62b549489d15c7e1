//! The browser client in a real Chromium, against a real server. The scenarios are scripts in `client/test/browser`; what
//! they need of the server's side, they ask for.
//!
//! Needs Node with `client/node_modules`, and a Chromium: `RTE_CHROMIUM`, or the one on the path.

mod stage;

use rte_testkit::{Cluster, Pgbench, seed};
use stage::Stage;

#[test]
fn stored_copies_are_one_snapshot_at_every_moment_whatever_dies() {
    let stage = Stage::new(Cluster::builder().conf("rte.allowed_origins", "*"), "exact", seed("browser exact"));
    Pgbench::prepare(&stage.cluster);
    stage.play();
}
