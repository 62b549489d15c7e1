//! The realms in one cluster: a world in the landlord's database, and one in that of each tenant that has its own.
//!
//! Roles are those of all of them, so a change of roles makes a state in each. People of one realm show their tokens, cursors
//! and subscriptions in others.

use crate::realm::REALMS;
use crate::world::World;
use rte_testkit::witness::tokens;
use rte_testkit::{Client, Cluster, Dice};

/// People of each realm, in the beginning.
const PEOPLE: [usize; REALMS.len()] = [9, 5, 5];

pub struct Universe {
    worlds: Vec<World>,
    dice: Dice,
    /// People who went to another realm, and tokens that were refused in one.
    moves: u32,
    refused: u32,
    cluster: Cluster,
}

impl Universe {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::with_seed(seed);
        let mut builder = Cluster::builder().tokens().conf("deadlock_timeout", "50ms");
        builder = builder.conf("max_worker_processes", "24").conf("max_connections", "100");
        if dice.bool() {
            builder = builder.conf("rte.history_size", "64kB");
        }
        let cluster = builder.ready();
        let mut landlord = cluster.sql();
        crate::tables::create_roles(&mut landlord);
        for tenant in REALMS.iter().filter_map(|realm| realm.tenant) {
            landlord.run(&format!("CREATE DATABASE {tenant}"));
            cluster.sql_in(tenant).prepare_database();
            landlord.run(&format!("SELECT rte.register_tenant('{tenant}')"));
        }
        let mut worlds = Vec::new();
        for (realm, people) in REALMS.iter().zip(PEOPLE) {
            let mut world = World::new(realm, &cluster.door(), dice.fork());
            for n in 0..people {
                world.welcome(cluster.rte_port, &format!("{} {n}", realm.tenant.unwrap_or("landlord")));
            }
            worlds.push(world);
        }
        Self { worlds, dice, moves: 0, refused: 0, cluster }
    }

    /// Something happens in one of the realms, and somebody tries another.
    pub fn burst(&mut self) {
        let here = [0, 0, 1, 2][self.dice.usize(..4)];
        if self.worlds[here].burst() {
            let others = self.worlds.iter_mut().enumerate().filter(|(n, _)| *n != here);
            others.for_each(|(_, world)| world.access_has_changed());
        }
        let there = (here + self.dice.usize(1..REALMS.len())) % REALMS.len();
        match self.dice.u32(..20) {
            0 | 1 => self.move_somebody(here, there),
            2 => self.show_foreign_token(here, there),
            _ => {}
        }
    }

    fn move_somebody(&mut self, here: usize, there: usize) {
        let people = &mut self.worlds[here].people;
        let place = self.dice.usize(..people.len());
        // Who came since the last barrier may have the cursor of where he came from still, and go back with it.
        if people.len() < 3 || people[place].is_strange {
            return;
        }
        let mut person = people.swap_remove(place);
        let world = &mut self.worlds[there];
        let actor = self.dice.usize(..world.actors.len());
        person.move_to(world.realm, actor, &world.actors, &world.entitled, world.state);
        world.people.push(person);
        self.moves += 1;
    }

    /// A token of one realm is good for no other's database, and what is said about that tells nothing.
    fn show_foreign_token(&mut self, here: usize, there: usize) {
        let Some(tenant) = self.worlds[there].realm.tenant else { return };
        let actors = &self.worlds[here].actors;
        // All but the last have one.
        let token = actors[self.dice.usize(..actors.len() - 1)].token();
        self.refused += 1;
        let World { people, entitled, .. } = &mut self.worlds[there];
        let place = self.dice.usize(..people.len());
        if self.dice.bool() && !people[place].away {
            people[place].show_foreign_token(&token, entitled);
            return;
        }
        let mut client = Client::new(self.cluster.rte_port, "stranger");
        (client.options.tenant, client.options.token) = (Some(tenant.to_owned()), Some(token));
        let closed = client.try_join().expect_err("a token of another realm");
        let said = format!("{closed:?} {:?}", client.errors);
        assert_eq!(closed.code, Some(4403), "{said}");
        assert_eq!(tokens(&said).count(), 0, "{said}");
    }

    /// Everybody holds what Postgres shows to him.
    pub fn barrier(&mut self) {
        self.worlds.iter_mut().for_each(World::barrier);
        self.worlds.iter_mut().for_each(World::assert_folds);
    }

    /// What happened so far.
    pub fn story(&self) -> String {
        let of = |what: fn(&World) -> u64| self.worlds.iter().map(what).collect::<Vec<_>>();
        let (states, changes) = (of(|w| w.states.into()), of(|w| w.changes.into()));
        let heard = of(|w| w.people.iter().map(|p| p.heard).sum());
        let (moves, refused) = (self.moves, self.refused);
        format!(
            "states {states:?}, changes of access {changes:?}, tokens heard {heard:?}, {moves} moves, {refused} tokens refused"
        )
    }

    pub fn assert_heard(&self) {
        let all = self.worlds.iter().flat_map(|w| &w.people);
        assert!(all.map(|p| p.heard).all(|heard| heard > 0), "somebody has heard nothing at all");
    }
}
