//! Access that changes while people listen: it takes effect at that commit, for those whom it concerns.

use crate::scene::{NAME, Scene};
use rte_testkit::State;

const ACCESS: &str = "access_changed";
const SCHEMA: &str = "schema_changed";

fn own() -> String {
    format!("CREATE POLICY own ON t USING (owner = {NAME})")
}

/// Ann (member), bob (manager) and carl (service, who bypasses policies).
fn scene(policies: &str) -> Scene {
    let mut scene = Scene::new(policies);
    for (role, name) in [("member", "ann"), ("manager", "bob"), ("service", "carl")] {
        scene.enter(role, name);
    }
    scene
}

/// After these statements, resyncs of `t` come to those who are named, with the reason; nobody's `other` is disturbed. What
/// was changed and written in one transaction is compared and listened to as all is.
#[track_caller]
fn concerns(scene: &mut Scene, statements: &str, whom: &[usize], reason: &str) {
    scene.run(&format!("BEGIN; UPDATE t SET note = 'before'; {statements}; UPDATE t SET note = 'after'; COMMIT"));
    for person in 0..scene.people.len() {
        let expected: Vec<_> =
            whom.iter().filter(|p| **p == person).map(|_| ("t".to_owned(), reason.to_owned())).collect();
        assert_eq!(scene.resyncs(person), expected, "{statements}: person {person}");
    }
    scene.run("UPDATE t SET owner = CASE owner WHEN 'ann' THEN 'bob' ELSE 'ann' END");
    scene.run("UPDATE other SET owner = CASE owner WHEN 'ann' THEN 'bob' ELSE 'ann' END");
    for person in 0..scene.people.len() {
        assert_eq!(scene.resyncs(person), [], "{statements}: person {person}");
    }
}

#[test]
fn policies_that_are_created_altered_and_dropped_concern_their_roles_only() {
    let mut scene = scene(&own());
    for (statements, whom) in [
        ("CREATE POLICY more ON t TO manager USING (team = 1)", &[1][..]),
        ("ALTER POLICY more ON t USING (team = 2)", &[1]),
        ("ALTER POLICY more ON t TO member", &[0, 1]),
        ("ALTER POLICY more ON t RENAME TO less", &[]),
        ("CREATE POLICY fewer ON t AS RESTRICTIVE TO member USING (open)", &[0]),
        ("CREATE POLICY writers ON t FOR INSERT TO manager WITH CHECK (true)", &[]),
        ("DROP POLICY less ON t", &[0]),
        ("DROP POLICY own ON t", &[0, 1]),
        ("CREATE POLICY all_of_it ON t USING (true)", &[0, 1]),
    ] {
        concerns(&mut scene, statements, whom, ACCESS);
    }
    assert!(scene.count(0) < scene.count(1) && scene.count(1) == scene.count(2));
}

#[test]
fn row_level_security_is_switched_while_people_listen() {
    let mut scene = scene(&own());
    let all = scene.count(2);
    concerns(&mut scene, "ALTER TABLE t DISABLE ROW LEVEL SECURITY", &[0, 1, 2], SCHEMA);
    assert_eq!([scene.count(0), scene.count(1)], [all, all]);
    concerns(&mut scene, "ALTER TABLE t ENABLE ROW LEVEL SECURITY", &[0, 1, 2], SCHEMA);
    assert_eq!(scene.count(0) + scene.count(1), all);
    concerns(&mut scene, "DROP POLICY own ON t", &[0, 1], ACCESS);
    assert_eq!([scene.count(0), scene.count(1), scene.count(2)], [0, 0, all]);
}

#[test]
fn owners_are_exempt_unless_policies_are_forced_on_them() {
    let mut scene = scene(&own());
    let all = scene.count(2);
    scene.run("ALTER TABLE t OWNER TO manager");
    assert_eq!(scene.count(1), all);
    scene.run("ALTER TABLE t FORCE ROW LEVEL SECURITY");
    assert_eq!(scene.count(0) + scene.count(1), all);
    scene.run("ALTER TABLE t NO FORCE ROW LEVEL SECURITY");
    assert_eq!(scene.count(1), all);
    // Who is a member of the owner is exempt too.
    scene.run("GRANT manager TO member");
    assert_eq!(scene.count(0), all);
    scene.run("REVOKE manager FROM member; UPDATE t SET note = 'not for all'");
    assert!(scene.count(0) < all);
}

#[test]
fn who_bypasses_policies_sees_all_for_as_long_as_he_does() {
    let mut scene = scene(&own());
    let all = scene.count(2);
    assert!(all > 0 && scene.count(0) + scene.count(1) == all);
    scene.run("ALTER ROLE service NOBYPASSRLS; UPDATE t SET note = 'not for carl'");
    assert_eq!(scene.count(2), 0);
    scene.run("UPDATE t SET owner = 'carl' WHERE team = 1");
    assert_ne!(scene.count(2), 0);
    scene.run("ALTER ROLE service BYPASSRLS; UPDATE t SET note = 'for carl'");
    assert_eq!(scene.count(2), all);
    for person in [0, 1] {
        assert_eq!(scene.resyncs(person), []);
    }
}

#[test]
fn grants_on_the_table_concern_the_role_only() {
    let mut scene = scene(&own());
    for _ in 0..3 {
        scene.run(
            "BEGIN; UPDATE t SET note = 'before'; REVOKE SELECT ON t FROM manager; UPDATE t SET note = 'after'; COMMIT",
        );
        assert_eq!(scene.people[1].client.sub("t").state, State::Ended);
        assert_eq!(scene.people[1].client.wait_error("UNKNOWN_TABLE").id.as_deref(), Some("t"));
        scene.run("UPDATE t SET owner = 'bob'");
        scene.run("GRANT SELECT ON t TO manager");
        scene.people[1].client.subscribe("t", "t");
        scene.look();
        assert_eq!(scene.people[1].client.sub("t").state, State::Live);
        scene.run("UPDATE t SET owner = CASE v % 2 WHEN 0 THEN 'ann' ELSE 'bob' END");
    }
    for person in 0..3 {
        assert_eq!(scene.resyncs(person), []);
    }
}

#[test]
fn grants_on_columns_change_the_columns_of_those_who_have_them() {
    let mut scene = Scene::new(&own());
    scene.sql.run("REVOKE SELECT ON t FROM member; GRANT SELECT (id, owner, v) ON t TO member");
    for (role, name) in [("member", "ann"), ("manager", "bob"), ("service", "carl")] {
        scene.enter(role, name);
    }
    let columns = |scene: &Scene| -> String {
        let names: Vec<&str> = scene.people[0].client.sub("t").columns.iter().map(|c| c.name.as_str()).collect();
        names.join(",")
    };
    assert_eq!(columns(&scene), "id,owner,v");
    for (statements, expected) in [
        ("GRANT SELECT (note, big) ON t TO member", "id,owner,note,big,v"),
        ("REVOKE SELECT (v) ON t FROM member", "id,owner,note,big"),
        ("REVOKE SELECT (big) ON t FROM member", "id,owner,note"),
    ] {
        concerns(&mut scene, statements, &[0], ACCESS);
        assert_eq!(columns(&scene), expected);
    }
    // A policy may read what its reader may not.
    concerns(&mut scene, "REVOKE SELECT (owner) ON t FROM member", &[0], ACCESS);
    assert_eq!(columns(&scene), "id,note");
    assert_ne!(scene.count(0), 0);
    // Without its key, nothing of a table can be told.
    scene.run("REVOKE SELECT (id) ON t FROM member");
    assert_eq!(scene.people[0].client.sub("t").state, State::Ended);
    assert_eq!(scene.people[0].client.wait_error("FORBIDDEN").id.as_deref(), Some("t"));
    scene.run("UPDATE t SET note = 'unheard'");
}

#[test]
fn memberships_of_roles_count_as_soon_as_they_are_granted() {
    let mut scene = scene(&format!("{}; CREATE POLICY vips ON t USING (pg_has_role('vip', 'member'))", own()));
    let all = scene.count(2);
    for _ in 0..3 {
        scene.run("GRANT vip TO member; UPDATE t SET note = 'for ann'");
        assert_eq!(scene.count(0), all);
        scene.run("REVOKE vip FROM member; UPDATE t SET note = 'not for ann'");
        assert!(scene.count(0) < all);
    }
    // A policy for a role is one for its members.
    scene.run("CREATE POLICY insiders ON t TO vip USING (team = 1)");
    scene.run("GRANT vip TO manager; UPDATE t SET note = 'for bob'");
    scene.run("REVOKE vip FROM manager; UPDATE t SET note = 'not for bob'");
    for person in 0..3 {
        let other = scene.resyncs(person).into_iter().any(|(id, _)| id == "other");
        assert!(!other, "person {person}");
    }
}

#[test]
fn grants_through_a_membership_come_and_go_with_it() {
    let mut scene = Scene::new(&own());
    scene.sql.run("REVOKE SELECT ON t FROM manager; GRANT SELECT ON t TO vip; GRANT vip TO manager");
    scene.enter("member", "ann");
    scene.enter("manager", "bob");
    assert_ne!(scene.count(1), 0);
    scene.run("REVOKE vip FROM manager; UPDATE t SET owner = 'bob'");
    assert_eq!(scene.people[1].client.sub("t").state, State::Ended);
    scene.people[1].client.wait_error("UNKNOWN_TABLE");
    assert_eq!(scene.people[1].client.sub("other").state, State::Live);
}

#[test]
fn a_function_that_is_replaced_counts_at_once() {
    for language in ["sql", "plpgsql"] {
        let body = |condition: &str| match language {
            "sql" => format!("SELECT {condition}"),
            _ => format!("BEGIN RETURN {condition}; END"),
        };
        let function = |condition: &str| {
            let body = body(condition);
            format!(
                "CREATE OR REPLACE FUNCTION allowed(owner text, team int) RETURNS bool LANGUAGE {language} STABLE AS $$ {body} $$"
            )
        };
        let mine = format!("owner = {NAME}");
        let mut scene = scene(&format!("{}; CREATE POLICY p ON t USING (allowed(owner, team))", function(&mine)));
        scene.run("UPDATE t SET owner = 'ann' WHERE team = 1");
        for condition in ["team = 2", "true", "false", &mine] {
            scene.run(&format!(
                "BEGIN; UPDATE t SET note = 'x'; {}; UPDATE t SET note = 'y'; COMMIT",
                function(condition)
            ));
            scene.run("UPDATE t SET team = team % 3 + 1, owner = CASE owner WHEN 'ann' THEN 'bob' ELSE 'ann' END");
        }
        for person in 0..3 {
            assert!(!scene.resyncs(person).iter().any(|(id, _)| id == "other"), "person {person}");
        }
    }
}

#[test]
fn what_a_function_of_a_policy_reads_is_followed_when_it_is_watched_and_when_it_is_not() {
    for watched in [true, false] {
        let mut scene = Scene::new(&format!(
            "CREATE FUNCTION mine(wanted int) RETURNS bool LANGUAGE plpgsql STABLE AS $$
             BEGIN RETURN EXISTS (SELECT FROM team_member m WHERE m.name = {NAME} AND m.team = wanted); END $$;
             CREATE POLICY p ON t USING (mine(team))"
        ));
        if watched {
            scene.sql.run("SELECT rte.watch_policy_table('team_member')");
        }
        scene.enter("member", "ann");
        scene.enter("manager", "bob");
        scene.run("INSERT INTO team_member VALUES ('ann', 3)");
        scene.run("BEGIN; DELETE FROM team_member WHERE name = 'ann' AND team < 3; UPDATE t SET note = 'now'; COMMIT");
        scene.run("UPDATE team_member SET name = 'eve' || team WHERE name = 'ann'");
        assert_eq!(scene.count(0), 0);
        assert_eq!(scene.resyncs(0), []);
    }
}

#[test]
fn what_changed_while_somebody_was_away_concerns_him_when_he_comes_back() {
    let mut scene = scene(&own());
    for statements in [
        "CREATE POLICY more ON t TO member USING (team = 1)",
        "DROP POLICY more ON t",
        "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "REVOKE SELECT ON t FROM member; GRANT SELECT (id, owner) ON t TO member",
        "GRANT SELECT ON t TO member",
        "ALTER ROLE service NOBYPASSRLS",
        "CREATE POLICY vips ON t USING (pg_has_role('vip', 'member'))",
        "GRANT vip TO member",
        "GRANT vip TO service; REVOKE vip FROM member",
    ] {
        for person in &mut scene.people {
            person.client.leave();
        }
        scene.write("UPDATE t SET note = 'before', owner = CASE owner WHEN 'ann' THEN 'bob' ELSE 'ann' END");
        scene.write(statements);
        scene.write("UPDATE t SET note = 'after', id = nextval('token') WHERE team = 2");
        for person in &mut scene.people {
            person.client.resume();
        }
        scene.look();
    }
}

/// A row that came and went while he had no right to it: not even its key is his to hear.
#[test]
fn rights_that_were_gone_while_somebody_was_away_show_him_nothing_of_that_time() {
    let mut scene = scene("CREATE POLICY p ON t TO vip USING (true)");
    scene.run("GRANT vip TO member");
    for person in &mut scene.people {
        person.client.leave();
    }
    scene.write("REVOKE vip FROM member");
    scene.write("INSERT INTO t (owner) VALUES ('eve'), ('mallory')");
    scene.write("DELETE FROM t WHERE owner = 'eve'");
    scene.write("UPDATE t SET id = nextval('token') WHERE owner = 'mallory'");
    scene.write("GRANT vip TO member");
    for person in &mut scene.people {
        person.client.resume();
    }
    scene.look();
    assert!(scene.count(0) > 0);
}

#[test]
fn memberships_that_each_row_asks_for_count_live_and_for_who_was_away() {
    let vips =
        "CREATE POLICY p ON t USING (pg_has_role(CASE owner WHEN 'ann' THEN 'vip' ELSE 'manager' END, 'member'))";
    let mut scene = scene(vips);
    assert_eq!(scene.explain(0).0, "folded");
    assert_eq!(scene.count(0), 0);
    for away in [false, true] {
        for statement in
            ["GRANT vip TO member", "REVOKE vip FROM member", "GRANT manager TO member", "REVOKE manager FROM member"]
        {
            if away {
                scene.people.iter_mut().for_each(|person| person.client.leave());
            }
            scene.write("UPDATE t SET note = 'before' WHERE team = 1");
            scene.write(statement);
            scene.write("UPDATE t SET note = 'after' WHERE team = 2");
            if away {
                scene.people.iter_mut().for_each(|person| person.client.resume());
            }
            scene.look();
            assert_eq!(scene.count(0) > 0, statement.starts_with("GRANT"), "{statement}, away: {away}");
        }
    }
}

#[test]
fn who_shared_a_shape_goes_on_when_another_may_not_read_the_table_any_more() {
    let mut scene = Scene::new("ALTER TABLE t DISABLE ROW LEVEL SECURITY");
    scene.enter("member", "ann");
    scene.enter("manager", "bob");
    for person in &mut scene.people {
        // Out of line in some rows, and so unknown of a change that leaves it as it is.
        person.client.subscribe_where("long", "t", None, "length(big) > $1", &[100.into()]);
        person.client.wait_live();
    }
    scene.sql.run("REVOKE SELECT ON t FROM member");
    scene.run("UPDATE t SET note = 'not for ann'");
    assert_eq!(scene.people[0].client.sub("long").state, State::Ended);
    assert_eq!(scene.people[1].client.sub("long").state, State::Live);
    assert!(!scene.people[1].client.sub("long").rows.is_empty());
}
