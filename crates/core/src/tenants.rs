//! Tenants: which rows of their sources are served, and who has a worker when there are too few.
//!
//! Decides from rows, counts and times alone. Leaves to the landlord's feeder to read and to launch. Pure, any thread.

pub mod turns;

use rte_protocol::bridge::Tenant;
use std::collections::HashSet;

/// Bytes of a tenant's name: it travels in the start parameters of a background worker.
pub const MAX_NAME: usize = 100;
/// Bytes of a domain, as DNS has it.
const MAX_DOMAIN: usize = 253;
/// Bytes of a database's name.
const MAX_DATABASE: usize = 63;

/// A tenant as a source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: Option<String>,
    pub domain: Option<String>,
    /// Without one, it has the tenant's name.
    pub database: Option<String>,
    /// `registered`, or the watched table.
    pub source: String,
}

/// A row of a source, and whether it is a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub tenant: Tenant,
    pub source: String,
    /// Why it is not served.
    pub problem: Option<String>,
}

/// Decides which entries are tenants: those that are well formed, and of several that claim the same name, domain
/// or database the first.
#[must_use]
pub fn settle(entries: Vec<Entry>, landlord: &str) -> Vec<Settled> {
    let mut names: HashSet<String> = HashSet::new();
    let mut databases: HashSet<String> = HashSet::new();
    let mut settled = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.unwrap_or_default();
        let domain = entry.domain.filter(|d| !d.is_empty());
        let database = entry.database.filter(|d| !d.is_empty()).unwrap_or_else(|| name.clone());
        let own: HashSet<String> = std::iter::once(&name).chain(&domain).map(|n| n.to_lowercase()).collect();
        let problem = problem(&name, domain.as_deref(), &database, landlord).or_else(|| {
            if own.iter().any(|n| names.contains(n)) {
                Some("name or domain taken".to_owned())
            } else if databases.contains(&database) {
                Some("database taken".to_owned())
            } else {
                None
            }
        });
        if problem.is_none() {
            names.extend(own);
            databases.insert(database.clone());
        }
        settled.push(Settled { tenant: Tenant { name, domain, database }, source: entry.source, problem });
    }
    settled
}

/// Why this cannot be a tenant, whatever others there are.
#[must_use]
pub fn problem(name: &str, domain: Option<&str>, database: &str, landlord: &str) -> Option<String> {
    let odd = |text: &str| text.trim() != text || text.chars().any(char::is_control);
    let problem = if name.is_empty() {
        "the name is empty"
    } else if name.len() > MAX_NAME {
        return Some(format!("the name is longer than {MAX_NAME} bytes"));
    } else if odd(name) {
        "the name begins or ends with a space, or contains control characters"
    } else if name.eq_ignore_ascii_case(landlord) {
        "the name is reserved: it is that of the landlord database"
    } else if domain.is_some_and(|d| d.is_empty() || d.len() > MAX_DOMAIN || d.contains(char::is_whitespace) || odd(d))
    {
        "the domain is not one"
    } else if domain.is_some_and(|d| d.eq_ignore_ascii_case(landlord)) {
        "the domain is reserved: it is the name of the landlord database"
    } else if database.is_empty() || database.len() > MAX_DATABASE || database.contains('\0') {
        return Some(format!("the name of the database is empty or longer than {MAX_DATABASE} bytes"));
    } else if database == landlord {
        "the database is reserved: it is the landlord's"
    } else if matches!(database, "template0" | "template1") {
        "the database is reserved: a template that is in use cannot be copied"
    } else {
        return None;
    };
    Some(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, domain: Option<&str>, database: Option<&str>) -> Entry {
        let text = |t: Option<&str>| t.map(str::to_owned);
        Entry { name: Some(name.into()), domain: text(domain), database: text(database), source: "s".into() }
    }

    fn problems(entries: Vec<Entry>) -> Vec<Option<String>> {
        settle(entries, "postgres").into_iter().map(|s| s.problem).collect()
    }

    #[test]
    fn the_first_of_those_who_claim_the_same_is_served() {
        let taken = Some("name or domain taken".to_owned());
        let found = problems(vec![
            entry("a", Some("a.example"), None),
            entry("a", None, Some("other")),
            entry("b", Some("A.EXAMPLE"), None),
            entry("A.example", None, None),
            entry("c", Some("c"), Some("a")),
            entry("d", None, None),
        ]);
        let database = Some("database taken".to_owned());
        assert_eq!(found, [None, taken.clone(), taken.clone(), taken, database, None]);
    }

    #[test]
    fn what_is_refused_takes_nothing_from_others() {
        let found = problems(vec![entry(" a", Some("x"), Some("db")), entry("a", Some("x"), Some("db"))]);
        assert!(found[0].is_some() && found[1].is_none());
    }

    #[test]
    fn a_database_is_named_like_its_tenant_unless_it_is_given() {
        let found = settle(vec![entry("a", Some(""), None), entry("b", None, Some("bb"))], "postgres");
        assert_eq!(found[0].tenant, Tenant { name: "a".into(), domain: None, database: "a".into() });
        assert_eq!(found[1].tenant.database, "bb");
    }

    #[test]
    fn reserved_and_odd_names_are_refused() {
        for (name, domain, database) in [
            ("", None, "d"),
            ("Postgres", None, "d"),
            ("a\n", None, "d"),
            ("a", Some("x y"), "d"),
            ("a", Some("postgres"), "d"),
            ("a", None, "postgres"),
            ("a", None, "template1"),
            ("a", None, ""),
        ] {
            assert!(problem(name, domain, database, "postgres").is_some(), "{name:?} {domain:?} {database:?}");
        }
        assert!(problem(&"a".repeat(MAX_NAME), None, "d", "postgres").is_none());
        assert!(problem(&"a".repeat(MAX_NAME + 1), None, "d", "postgres").is_some());
    }
}
