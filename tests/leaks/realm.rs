//! Where people live: the landlord's database, in which tenants are a matter of rows, or that of a tenant of its own. Rows,
//! names and the tenant itself have tokens that no other realm has.

use rte_testkit::witness::FIRST_TOKEN;
use rte_testkit::{Door, Sql};

pub struct Realm {
    /// Name of the tenant and of its database; none for the landlord.
    pub tenant: Option<&'static str>,
    /// A column that some roles may not read.
    pub hidden: &'static str,
    /// A table that is never granted to the auditor and to anonymous sessions.
    pub secret: &'static str,
    /// What rows say whose they are.
    pub tenants: [&'static str; 3],
    /// The first token of its rows.
    pub first: u64,
}

const APART: u64 = 100_000_000_000;

pub static REALMS: [Realm; 3] = [
    Realm {
        tenant: None,
        hidden: "c77000000000001",
        secret: "t77000000000002",
        tenants: ["a", "b", "c"],
        first: FIRST_TOKEN + 100,
    },
    Realm {
        tenant: Some("red77100000000003"),
        hidden: "c77100000000001",
        secret: "t77100000000002",
        tenants: ["red77100000000003", "b", "c"],
        first: FIRST_TOKEN + APART + 100,
    },
    Realm {
        tenant: Some("blue77200000000003"),
        hidden: "c77200000000001",
        secret: "t77200000000002",
        tenants: ["blue77200000000003", "b", "c"],
        first: FIRST_TOKEN + 2 * APART + 100,
    },
];

impl Realm {
    pub fn database(&self) -> &'static str {
        self.tenant.unwrap_or("postgres")
    }

    /// A superuser's session.
    #[track_caller]
    pub fn sql(&self, door: &Door) -> Sql {
        door.knock(self.database()).expect("a session")
    }

    /// A row's tenant, by chance, as SQL.
    pub fn some_tenant(&self) -> String {
        let [first, second, third] = self.tenants;
        format!("(ARRAY['{first}', '{second}', '{third}'])[1 + (random() * 2)::int]")
    }
}
