//! The scene: roles, tables under eight kinds of policies and more, and what of a row is a token.
//!
//! Every row version has tokens of its own: in the key, in `v`, in the hidden column, and in `big` whenever that is written.

use crate::realm::Realm;
use rte_testkit::Sql;

pub const ROLES: [&str; 5] = ["member", "manager", "auditor", "service", "web_anon"];

/// A table and its policies.
pub struct Table {
    pub name: &'static str,
    pub policies: &'static str,
    pub shape: Shape,
    /// Sessions are limited to their tenant.
    pub by_tenant: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Plain,
    /// With a second key column.
    Composite,
    Partitioned,
}

impl Table {
    const fn new(name: &'static str, shape: Shape, policies: &'static str) -> Self {
        Self { name, policies, shape, by_tenant: false }
    }

    pub fn is_timed(&self) -> bool {
        self.name == "timed"
    }
}

/// `{claims}` stands for the claims as jsonb, `{name}` for the name in them, `$t` for the table.
pub fn all(realm: &Realm) -> Vec<Table> {
    use Shape::{Composite, Partitioned, Plain};
    let mut all = vec![
        Table::new("claim_equality", Plain, "CREATE POLICY p ON $t USING (tenant = {claims} ->> 'tenant')"),
        Table::new(
            "claim_array",
            Composite,
            "CREATE POLICY p ON $t USING (tenant = ANY(ARRAY(SELECT jsonb_array_elements_text({claims} -> 'tenants'))))",
        ),
        Table::new(
            "claim_in",
            Plain,
            "CREATE POLICY p ON $t USING (tenant IN ({claims} #>> '{tenants,0}', {claims} #>> '{tenants,1}') AND team > 1)",
        ),
        Table::new(
            "membership_of_roles",
            Plain,
            "CREATE POLICY p ON $t USING (pg_has_role(CASE team WHEN 1 THEN 'member' WHEN 2 THEN 'vip' ELSE 'manager' END, 'member'))",
        ),
        Table::new("owners", Composite, "CREATE POLICY p ON $t USING (owner = {name})"),
        Table::new("public_or_mine", Partitioned, "CREATE POLICY p ON $t USING (open OR owner = {name})"),
        Table::new(
            "by_membership",
            Plain,
            "CREATE POLICY p ON $t USING (team IN (SELECT m.team FROM team_member m WHERE m.name = {name}))",
        ),
        Table::new(
            "by_crew",
            Composite,
            "CREATE POLICY p ON $t USING (EXISTS (SELECT FROM crew c WHERE c.name = {name} AND c.team = $t.team) OR owner = {name})",
        ),
        Table::new(
            "restricted",
            Plain,
            "CREATE POLICY p ON $t USING (owner = {name} OR open);
             CREATE POLICY managers ON $t TO manager USING (team = 2);
             CREATE POLICY few ON $t AS RESTRICTIVE TO auditor USING (team <> 1);
             CREATE POLICY fewer ON $t AS RESTRICTIVE USING (tenant <> 'c' OR team = 3)",
        ),
        Table::new("timed", Plain, "CREATE POLICY p ON $t USING (until > now())"),
        Table::new(
            "supabase",
            Partitioned,
            "CREATE POLICY p ON $t USING (owner_id = (SELECT auth.uid()) OR tenant = (SELECT auth.jwt() ->> 'tenant') AND open)",
        ),
        Table::new("stored_out_of_line", Plain, "CREATE POLICY p ON $t USING (wide LIKE 'pub%' OR owner = {name})"),
        Table::new(realm.secret, Plain, "CREATE POLICY p ON $t USING (owner = {name})"),
        Table::new("by_tenant", Composite, "ALTER TABLE $t DISABLE ROW LEVEL SECURITY"),
        Table::new("by_tenant_and_policy", Plain, "CREATE POLICY p ON $t USING (open OR owner = {name})"),
    ];
    all.iter_mut().filter(|t| t.name.starts_with("by_tenant")).for_each(|t| t.by_tenant = true);
    all
}

/// Claims and names of policies as SQL.
pub fn expand(policies: &str, table: &str) -> String {
    let claims = "nullif(current_setting('request.jwt.claims', true), '')::jsonb";
    policies
        .replace("$t", table)
        .replace("{claims}", &format!("({claims})"))
        .replace("{name}", &format!("({claims} ->> 'name')"))
}

/// The roles, which all databases have in common.
pub fn create_roles(sql: &mut Sql) {
    sql.run(
        "CREATE ROLE member; CREATE ROLE manager; CREATE ROLE auditor; CREATE ROLE service BYPASSRLS; CREATE ROLE vip;
         GRANT member, manager, auditor, service TO authenticator",
    );
}

/// Functions, membership tables and the tables themselves, registered, with some rows.
pub fn create(sql: &mut Sql, realm: &Realm, tables: &[Table]) {
    let Realm { hidden, first, .. } = realm;
    sql.run(&format!(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM web_anon;
         GRANT SELECT ON kit_barrier TO PUBLIC;
         CREATE SEQUENCE token AS bigint START {first};
         CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
         CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
             $$ SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
         CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
             $$ SELECT nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '')::uuid $$;
         CREATE TABLE team_member (name text, team int, PRIMARY KEY (name, team));
         CREATE TABLE crew (name text, team int, PRIMARY KEY (name, team));
         INSERT INTO team_member VALUES ('ann', 1), ('ann', 2), ('bob', 3), ('dan', 1); INSERT INTO crew SELECT * FROM team_member;
         GRANT SELECT ON team_member, crew TO PUBLIC;
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.v := nextval('token');
             NEW.{hidden} := 'h' || nextval('token');
             NEW.owner_id := md5(NEW.owner)::uuid;
             RETURN NEW; END $$"
    ));
    for table in tables {
        let name = table.name;
        let (key, partitions) = match table.shape {
            Shape::Plain => ("id", ""),
            Shape::Composite => ("id, part", ""),
            Shape::Partitioned => ("id, part", "PARTITION BY LIST (part)"),
        };
        sql.run(&format!(
            "CREATE TABLE {name} (owner text NOT NULL, part int NOT NULL DEFAULT 1, id bigint DEFAULT nextval('token'), tenant text,
                 team int, open bool NOT NULL DEFAULT false, until timestamptz, owner_id uuid, wide text, big text, note text,
                 {hidden} text, v bigint, PRIMARY KEY ({key})) {partitions}"
        ));
        if table.shape == Shape::Partitioned {
            sql.run(&format!(
                "CREATE TABLE {name}_1 PARTITION OF {name} FOR VALUES IN (1); CREATE TABLE {name}_2 PARTITION OF {name} DEFAULT"
            ));
        }
        sql.run(&format!(
            "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION stamp();
             ALTER TABLE {name} ALTER wide SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL;
             ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
        ));
        sql.run(&expand(table.policies, name));
        for role in ROLES {
            let grant = match role {
                "auditor" | "web_anon" if name == realm.secret => continue,
                "manager" | "service" => String::new(),
                _ => "(owner, part, id, tenant, team, open, until, owner_id, wide, big, note, v)".to_owned(),
            };
            sql.run(&format!("GRANT SELECT {grant} ON {name} TO {role}"));
        }
        let tenant = if table.by_tenant { ", tenant_column => 'tenant'" } else { "" };
        sql.run(&format!("SELECT rte.register_table('{name}'{tenant})"));
        for _ in 0..3 {
            sql.run(&insert(realm, name, 6));
        }
    }
    sql.register("crew");
}

/// Rows of many owners, tenants, teams and lifetimes. Some values are out of line.
pub fn insert(realm: &Realm, table: &str, rows: u32) -> String {
    let tenant = realm.some_tenant();
    format!(
        "INSERT INTO {table} (owner, part, tenant, team, open, until, wide, big)
         SELECT (ARRAY['ann', 'bob', 'dan', 'eve'])[1 + (random() * 3)::int], 1 + (random() * 1.4)::int, {tenant},
                1 + (random() * 2)::int, random() < 0.3, now() + (ARRAY[-3600, 2, 4, 3600])[1 + (random() * 3)::int] * interval '1 second',
                {WIDE}, CASE WHEN random() < 0.4 THEN {BIG} END
         FROM generate_series(1, {rows}) i"
    )
}

pub const WIDE: &str = "(CASE WHEN random() < 0.4 THEN 'pub' ELSE 'sec' END || nextval('token') || CASE WHEN random() < 0.5 THEN repeat('w', 3000) ELSE '' END)";
pub const BIG: &str = "('b' || nextval('token') || repeat('big', 1500))";
