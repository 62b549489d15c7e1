//! Access that changes at random: grants, policies, row-level security, memberships, membership tables.

use crate::realm::Realm;
use crate::tables::{Table, expand};
use rte_testkit::Dice;

/// What a change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The rights of one database.
    Rights,
    /// A table, which it locks: open transactions are ended before.
    Table,
    /// Roles, which all databases have in common.
    Roles,
}

/// Statements of one transaction.
pub fn change(realm: &Realm, table: &Table, dice: &mut Dice) -> (String, Of) {
    let name = table.name;
    let role = ["member", "manager", "auditor", "web_anon"][dice.usize(..4)];
    let forbidden = name == realm.secret && matches!(role, "auditor" | "web_anon");
    let column = [realm.hidden, "note", "big", "wide", "v", "team", "owner"][dice.usize(..7)];
    match dice.u32(..100) {
        // With the tenant, by which this test itself tells rows apart.
        0..=11 if !forbidden => (format!("GRANT SELECT ({column}, id, part, tenant) ON {name} TO {role}"), Of::Rights),
        12..=23 => (format!("REVOKE SELECT ({column}) ON {name} FROM {role}"), Of::Rights),
        24..=31 if !forbidden => (format!("GRANT SELECT ON {name} TO {role}"), Of::Rights),
        32..=37 => (format!("REVOKE SELECT ON {name} FROM {role}"), Of::Rights),
        38..=45 => {
            let names = ["ann", "bob", "dan", "eve", "carl"];
            let (who, team, table) = (names[dice.usize(..5)], dice.u32(1..4), ["team_member", "crew"][dice.usize(..2)]);
            match dice.u32(..4) {
                0 => (format!("DELETE FROM {table} WHERE name = '{who}'"), Of::Rights),
                1 => (
                    format!("UPDATE {table} SET team = team % 3 + 1 WHERE (SELECT count(*) FROM {table}) < 2"),
                    Of::Rights,
                ),
                _ => (format!("INSERT INTO {table} VALUES ('{who}', {team}) ON CONFLICT DO NOTHING"), Of::Rights),
            }
        }
        46..=55 => {
            let (group, role) =
                (["vip", "manager", "auditor"][dice.usize(..3)], ["member", "web_anon"][dice.usize(..2)]);
            let words = [format!("GRANT {group} TO {role}"), format!("REVOKE {group} FROM {role}")];
            (words[dice.usize(..2)].clone(), Of::Roles)
        }
        56..=58 => (format!("ALTER ROLE service {}", pick(dice, ["BYPASSRLS", "NOBYPASSRLS"])), Of::Roles),
        59..=65 => (
            format!("ALTER TABLE {name} {} ROW LEVEL SECURITY", pick(dice, ["ENABLE", "ENABLE", "DISABLE"])),
            Of::Table,
        ),
        _ if table.is_timed() => (format!("REVOKE SELECT (note) ON {name} FROM {role}"), Of::Rights),
        66..=68 => (format!("ALTER TABLE {name} {} ROW LEVEL SECURITY", pick(dice, ["FORCE", "NO FORCE"])), Of::Table),
        69..=71 => {
            (format!("ALTER TABLE {name} OWNER TO {}", pick(dice, ["postgres", "postgres", "manager"])), Of::Table)
        }
        72..=80 => {
            let using = ["team = 1", "open", "owner = {name}", "tenant = {claims} ->> 'tenant'", "length(wide) > 100"];
            let using = expand(using[dice.usize(..using.len())], name);
            let kind = pick(dice, ["", "", "AS RESTRICTIVE"]);
            (
                format!(
                    "DROP POLICY IF EXISTS extra ON {name}; CREATE POLICY extra ON {name} {kind} FOR SELECT TO {role} USING ({using})"
                ),
                Of::Table,
            )
        }
        81..=86 => (format!("DROP POLICY IF EXISTS extra ON {name}"), Of::Table),
        87..=93 => (format!("DROP POLICY IF EXISTS p ON {name}; {}", again(table)), Of::Table),
        // Nobody could look while a writer's transaction held its lock.
        94..=96 => (format!("TRUNCATE {name}"), Of::Table),
        _ => (format!("DROP POLICY IF EXISTS few ON {name}"), Of::Table),
    }
}

/// The table's own policy again; the others of the table stay as they are.
fn again(table: &Table) -> String {
    let first = table.policies.split(';').next().unwrap_or_default();
    expand(if first.starts_with("CREATE") { first } else { "SELECT" }, table.name)
}

fn pick<const N: usize>(dice: &mut Dice, words: [&'static str; N]) -> &'static str {
    words[dice.usize(..N)]
}
