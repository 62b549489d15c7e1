//! What connections cost that nothing happens on.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::contestant::{Contestant, label};
use crate::crowd::{Count, Crowd, Party};
use crate::process::{kernel_socket_kib, private_kib};
use crate::results::{Case, Found};
use crate::rig::{self, Needs};
use crate::say;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    contestants: Vec<String>,
    clients: u64,
    /// How long their cost is watched; longer than the heartbeat's 25 s, or it is not in it.
    seconds: u64,
}

pub fn run(sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let prepare = |cluster: &rte_testkit::Cluster| rig::create_feed(&mut cluster.sql(), 10);
    let case = Case::clients(sizes.clients);
    for name in &sizes.contestants {
        // One at a time: what the kernel holds is not told apart by process.
        let contestant = match Contestant::start(name, Needs::default(), prepare, &["feed"]) {
            Ok(contestant) => contestant,
            Err(why) => {
                found.note(format!("{} did not take part: {why}", label(name)));
                continue;
            }
        };
        if let Err(why) = contestant_idles(&contestant, &case, sizes, found) {
            found.note(format!("{}: {why}", label(name)));
        }
    }
    Ok(())
}

fn contestant_idles(contestant: &Contestant, case: &Case, sizes: &Sizes, found: &mut Found) -> Result<(), String> {
    let party = |size| Party::new(size, Count::Marks, contestant.hello("feed"));
    // What the first client brings up is not what each costs.
    let first = Crowd::join(&contestant.endpoint(), party(1))?;
    std::thread::sleep(Duration::from_secs(1));
    let server = contestant.server();
    let others: Vec<i32> = contestant.processes().into_iter().filter(|pid| *pid != server).collect();
    let sum = || others.iter().map(|pid| private_kib(*pid)).sum::<u64>();
    let (user, behind, kernel) = (private_kib(server), sum(), kernel_socket_kib());
    let start = Instant::now();
    let crowd = Crowd::join(&contestant.endpoint(), party(sizes.clients))?;
    let joined = start.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(2));
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / sizes.clients as f64;
    let mut record = |metric, value| found.record(&contestant.name, case, metric, value);
    record("user", each(private_kib(server), user));
    record("behind", each(sum(), behind));
    record("kernel", each(kernel_socket_kib(), kernel));
    record("joined", sizes.clients as f64 / joined);
    let (cpu, start) = (contestant.cpu_seconds(), Instant::now());
    std::thread::sleep(Duration::from_secs(sizes.seconds));
    record("cpu", (contestant.cpu_seconds() - cpu) * 100.0 / start.elapsed().as_secs_f64());
    record("user_later", each(private_kib(server), user));
    say(&format!("idle: {}: {:.1} KiB of user memory each", contestant.name, each(private_kib(server), user)));
    if crowd.closed() + first.closed() > 0 {
        return Err(format!("{} clients were closed", crowd.closed() + first.closed()));
    }
    Ok(())
}
