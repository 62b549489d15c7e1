//! Who has a feeder when there are fewer than tenants that want one: they take turns.
//!
//! Of those who wait, the one that was served longest ago comes first. Room is made by feeders without clients, the one
//! that has been so for longest first, then by the one that has served longest, but not before its turn is over.

/// A database that wants a feeder. Times are milliseconds of any clock that does not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    pub database: u32,
    /// When its feeder last began; none: never.
    pub served: Option<u64>,
    /// When it began to wait.
    pub since: u64,
    /// Whether clients wait, or only upkeep.
    pub clients: bool,
}

/// A tenant's feeder, running or being started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    pub database: u32,
    /// When it began to serve.
    pub since: u64,
    /// Since when it has had no clients.
    pub idle: Option<u64>,
    /// It was asked to leave.
    pub leaving: bool,
}

/// What may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Feeders of tenants at once.
    pub feeders: usize,
    /// Time that a feeder with clients has for itself.
    pub turn: u64,
    /// Time that one without clients has for them to come (back).
    pub grace: u64,
    /// The last attempt found no free worker slot: somebody has to leave first.
    pub full: bool,
}

/// What is to be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Databases whose feeders are launched, in this order.
    pub launch: Vec<u32>,
    /// Databases whose feeders are asked to leave.
    pub leave: Vec<u32>,
    /// When the next turn is over that somebody waits for.
    pub again: Option<u64>,
}

/// Decides whose turn it is.
#[must_use]
pub fn plan(mut waiting: Vec<Waiting>, serving: &[Serving], bounds: Bounds, now: u64) -> Plan {
    waiting.retain(|w| serving.iter().all(|s| s.database != w.database));
    waiting.sort_by_key(|w| (!w.clients, w.served, w.since, w.database));
    let mut plan = Plan::default();
    let free = if bounds.full { 0 } else { bounds.feeders.saturating_sub(serving.len()) };
    plan.launch.extend(waiting.iter().take(free).map(|w| w.database));

    // Upkeep waits until there is room by itself.
    let without = waiting.iter().skip(free).filter(|w| w.clients).count();
    let leaving = serving.iter().filter(|s| s.leaving).count();
    let mut wanted = without.saturating_sub(leaving);
    let mut staying: Vec<&Serving> = serving.iter().filter(|s| !s.leaving).collect();
    staying.sort_by_key(|s| (s.idle.is_none(), s.idle.unwrap_or(s.since), s.database));
    for s in staying {
        if wanted == 0 {
            break;
        }
        let over = (s.since + bounds.turn).min(s.idle.map_or(u64::MAX, |idle| idle + bounds.grace));
        if now >= over {
            plan.leave.push(s.database);
        } else {
            plan.again = Some(plan.again.map_or(over, |at| at.min(over)));
        }
        wanted -= 1;
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { feeders: 2, turn: 2000, grace: 500, full: false };

    fn waits(database: u32, served: Option<u64>, since: u64) -> Waiting {
        Waiting { database, served, since, clients: true }
    }

    fn serves(database: u32, since: u64, idle: Option<u64>) -> Serving {
        Serving { database, since, idle, leaving: false }
    }

    #[test]
    fn whoever_was_served_longest_ago_comes_first() {
        let waiting = vec![waits(1, Some(500), 0), waits(2, Some(100), 9), waits(3, None, 10)];
        assert_eq!(plan(waiting, &[], BOUNDS, 10_000).launch, [3, 2]);
    }

    #[test]
    fn upkeep_never_comes_before_clients_and_takes_nobodys_place() {
        let upkeep = Waiting { clients: false, ..waits(1, None, 0) };
        assert_eq!(plan(vec![upkeep, waits(2, Some(5), 3)], &[], Bounds { feeders: 1, ..BOUNDS }, 10).launch, [2]);
        let found = plan(vec![upkeep], &[serves(8, 0, Some(0)), serves(9, 0, None)], BOUNDS, 9000);
        assert_eq!(found, Plan::default());
    }

    #[test]
    fn an_idle_feeder_leaves_first_then_the_one_that_served_longest() {
        let serving = [serves(8, 0, None), serves(9, 3000, Some(4000))];
        assert_eq!(plan(vec![waits(1, None, 0)], &serving, BOUNDS, 5000).leave, [9]);
        let serving = [serves(8, 10, None), serves(9, 0, None)];
        assert_eq!(plan(vec![waits(1, None, 0)], &serving, BOUNDS, 5000).leave, [9]);
    }

    #[test]
    fn a_turn_is_not_cut_short() {
        let serving = [serves(8, 4000, None), serves(9, 4500, None)];
        let found = plan(vec![waits(1, None, 0)], &serving, BOUNDS, 5000);
        assert_eq!(found, Plan { again: Some(6000), ..Plan::default() });
    }

    /// The clients that it was launched for are just attaching.
    #[test]
    fn a_feeder_that_has_just_begun_is_not_taken_for_idle() {
        let serving = [serves(8, 4000, Some(4010)), serves(9, 4500, None)];
        let found = plan(vec![waits(1, None, 0)], &serving, BOUNDS, 4100);
        assert_eq!(found, Plan { again: Some(4510), ..Plan::default() });
        assert_eq!(plan(vec![waits(1, None, 0)], &serving, BOUNDS, 4510).leave, [8]);
    }

    #[test]
    fn nobody_is_asked_to_leave_for_those_who_have_room_or_are_about_to() {
        let found = plan(vec![waits(1, None, 0)], &[serves(8, 0, None)], BOUNDS, 9000);
        assert_eq!((found.launch, found.leave), (vec![1], vec![]));
        let serving = [serves(8, 0, None), Serving { leaving: true, ..serves(9, 0, None) }];
        assert!(plan(vec![waits(1, None, 0)], &serving, BOUNDS, 9000).leave.is_empty());
    }

    #[test]
    fn no_free_slot_is_as_good_as_no_room() {
        let found = plan(vec![waits(1, None, 0)], &[serves(8, 0, None)], Bounds { full: true, ..BOUNDS }, 9000);
        assert_eq!((found.launch, found.leave), (vec![], vec![8]));
    }

    /// Everybody always wants to be served: all are, equally often.
    #[test]
    fn all_are_served_equally_often() {
        let (databases, bounds) = (23, Bounds { feeders: 5, ..BOUNDS });
        let mut served: Vec<(Option<u64>, u32)> = vec![(None, 0); databases];
        let mut serving: Vec<Serving> = Vec::new();
        for now in (0..200_000).step_by(50) {
            serving.retain(|s| !s.leaving);
            let waiting = (0..databases)
                .filter(|d| serving.iter().all(|s| s.database as usize != *d))
                .map(|d| waits(d as u32, served[d].0, 0))
                .collect();
            let todo = plan(waiting, &serving, bounds, now);
            for (n, database) in (now..).zip(todo.launch) {
                let (at, times) = &mut served[database as usize];
                (*at, *times) = (Some(n), *times + 1);
                serving.push(serves(database, n, None));
            }
            serving.iter_mut().filter(|s| todo.leave.contains(&s.database)).for_each(|s| s.leaving = true);
            assert!(serving.len() <= bounds.feeders);
        }
        let (least, most) = (served.iter().map(|s| s.1).min(), served.iter().map(|s| s.1).max());
        assert!(least >= Some(15) && most <= least.map(|l| l + 1), "{least:?} {most:?}");
    }
}
