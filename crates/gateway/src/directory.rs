//! Which database a tenant means, and which feeder serves it.
//!
//! The tenants are what the landlord's feeder said last; while it is gone they are kept, but a name that is not among
//! them is then not known to be unknown. A tenant that is asked for by nothing is the landlord. Decides nothing about
//! who waits how long. I/O threads, one copy each.

use rte_protocol::bridge::Tenant;
use std::collections::HashMap;
use std::rc::Rc;

/// Names a feeder's attachment; never reused in this process.
pub type FeederId = u32;

/// Where a session belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// None: the landlord's.
    tenant: Option<Rc<str>>,
    database: Rc<str>,
}

impl Home {
    /// The tenant's name; none for the landlord.
    pub fn tenant(&self) -> Option<&Rc<str>> {
        self.tenant.as_ref()
    }

    /// The name that clients and views are shown: the landlord goes by that of its database.
    pub fn name(&self) -> &str {
        self.tenant.as_ref().unwrap_or(&self.database)
    }
}

/// Where a tenant is served.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    At(Home, FeederId),
    /// Its database is known, and no feeder of it is attached.
    NoFeeder(Home),
    /// Nobody can tell before the landlord's feeder says which tenants there are.
    NotTold,
    Unknown,
}

/// Tenants, and the feeders of their databases.
#[derive(Debug)]
pub struct Directory {
    landlord: Rc<str>,
    feeders: HashMap<Box<str>, FeederId>,
    tenants: HashMap<Rc<str>, Home>,
    /// In lower case.
    domains: HashMap<Box<str>, Home>,
    /// The landlord's feeder is attached and has said which tenants there are.
    told: bool,
}

impl Directory {
    pub fn new(landlord: &str) -> Self {
        let landlord = landlord.into();
        Self { landlord, feeders: HashMap::new(), tenants: HashMap::new(), domains: HashMap::new(), told: false }
    }

    pub fn up(&mut self, database: &str, feeder: FeederId) {
        self.feeders.insert(database.into(), feeder);
        self.told &= *database != *self.landlord;
    }

    /// The feeder serves nobody new.
    pub fn down(&mut self, feeder: FeederId) {
        self.told &= self.feeders.get(&*self.landlord) != Some(&feeder);
        self.feeders.retain(|_, id| *id != feeder);
    }

    /// These are all tenants.
    pub fn tell(&mut self, tenants: &[Tenant]) {
        self.told = true;
        self.tenants.clear();
        self.domains.clear();
        for Tenant { name, domain, database } in tenants {
            let home = Home { tenant: Some(name.as_str().into()), database: database.as_str().into() };
            if let Some(domain) = domain {
                self.domains.insert(domain.to_lowercase().into(), home.clone());
            }
            self.tenants.insert(name.as_str().into(), home);
        }
    }

    /// Where a client belongs that asks for this: a name as it is written, or a domain in any case.
    pub fn find(&self, wanted: Option<&str>) -> Place {
        let landlord = || Home { tenant: None, database: self.landlord.clone() };
        let Some(wanted) = wanted else { return self.at(landlord()) };
        let of_domain = || self.domains.get(wanted.to_lowercase().as_str());
        match self.tenants.get(wanted).or_else(of_domain) {
            Some(home) => self.at(home.clone()),
            // The name under which clients are welcomed there.
            None if *wanted == *self.landlord => self.at(landlord()),
            None if self.told => Place::Unknown,
            None => Place::NotTold,
        }
    }

    fn at(&self, home: Home) -> Place {
        match self.feeders.get(&*home.database) {
            Some(feeder) => Place::At(home, *feeder),
            None => Place::NoFeeder(home),
        }
    }

    /// Whether there still is such a tenant in the same database.
    pub fn stands(&self, home: &Home) -> bool {
        home.tenant.as_ref().is_none_or(|tenant| self.tenants.get(tenant) == Some(home))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, domain: Option<&str>, database: &str) -> Tenant {
        Tenant { name: name.into(), domain: domain.map(Into::into), database: database.into() }
    }

    fn at(directory: &Directory, wanted: &str) -> Option<(String, FeederId)> {
        match directory.find(Some(wanted)) {
            Place::At(home, feeder) => Some((home.name().to_owned(), feeder)),
            _ => None,
        }
    }

    #[test]
    fn a_tenant_is_found_by_its_exact_name_or_its_domain_in_any_case() {
        let mut directory = Directory::new("main");
        directory.up("main", 1);
        directory.tell(&[tenant("blue", Some("Blue.example"), "b"), tenant("blue.example.org", None, "main")]);
        assert!(matches!(directory.find(Some("blue")), Place::NoFeeder(home) if home.name() == "blue"));
        directory.up("b", 2);
        for wanted in ["blue", "blue.example", "BLUE.EXAMPLE"] {
            assert_eq!(at(&directory, wanted), Some(("blue".into(), 2)), "{wanted}");
        }
        for wanted in ["Blue", "b", "", "blue.example.", "blue.exampl"] {
            assert_eq!(directory.find(Some(wanted)), Place::Unknown, "{wanted}");
        }
        assert_eq!(at(&directory, "blue.example.org"), Some(("blue.example.org".into(), 1)));
    }

    #[test]
    fn a_name_goes_before_a_domain_and_before_the_landlords() {
        let mut directory = Directory::new("main");
        directory.up("main", 1);
        assert_eq!(at(&directory, "main"), Some(("main".into(), 1)));
        directory.up("b", 2);
        directory.up("c", 3);
        directory.tell(&[tenant("x", Some("y"), "b"), tenant("y", None, "c"), tenant("main", None, "c")]);
        assert_eq!(at(&directory, "y"), Some(("y".into(), 3)));
        assert_eq!(at(&directory, "main"), Some(("main".into(), 3)));
        assert!(matches!(directory.find(None), Place::At(home, 1) if home.tenant().is_none()));
    }

    #[test]
    fn nobody_is_unknown_before_the_landlord_has_said_who_is_known() {
        let mut directory = Directory::new("main");
        assert_eq!(directory.find(Some("blue")), Place::NotTold);
        directory.up("main", 1);
        assert_eq!(directory.find(Some("blue")), Place::NotTold);
        directory.tell(&[tenant("red", None, "r")]);
        assert_eq!(directory.find(Some("blue")), Place::Unknown);
        directory.down(1);
        assert_eq!(directory.find(Some("blue")), Place::NotTold);
        assert!(matches!(directory.find(Some("red")), Place::NoFeeder(_)), "what is known goes on");
    }

    #[test]
    fn a_tenant_stands_while_it_has_its_name_and_database() {
        let mut directory = Directory::new("main");
        directory.tell(&[tenant("red", Some("a"), "r"), tenant("blue", None, "r")]);
        let home = |directory: &Directory, name| match directory.find(Some(name)) {
            Place::NoFeeder(home) => home,
            other => panic!("{other:?}"),
        };
        let (red, blue, landlord) = (home(&directory, "red"), home(&directory, "blue"), home(&directory, "main"));
        directory.tell(&[tenant("red", Some("b"), "r"), tenant("blue", None, "other")]);
        assert!(directory.stands(&red) && !directory.stands(&blue) && directory.stands(&landlord));
        directory.tell(&[tenant("scarlet", Some("b"), "r")]);
        assert!(!directory.stands(&red) && directory.stands(&landlord));
    }
}
