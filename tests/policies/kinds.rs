//! Each kind of policy, under one script of writes that moves rows between owners, tenants and teams.

use crate::scene::{NAME, Scene};

const SWAP: &str = "owner = CASE owner WHEN 'ann' THEN 'bob' ELSE 'ann' END";

/// Enter, leave, stay; keys that move; values out of line that change and that do not; savepoints; truncation.
fn script() -> Vec<String> {
    let insert = "INSERT INTO t (owner, tenant, team, open, until)
                  SELECT CASE i % 2 WHEN 0 THEN 'ann' ELSE 'bob' END, chr(97 + i % 3), 1 + i % 3, i % 4 = 0,
                         now() + CASE i % 2 WHEN 0 THEN interval '1 hour' ELSE interval '-1 hour' END
                  FROM generate_series(1, 9) i";
    let swap_until = "until = now() + (now() - until)";
    vec![
        "UPDATE t SET note = 'seen'".into(),
        format!("UPDATE t SET {SWAP} WHERE team < 3"),
        "UPDATE t SET tenant = chr(97 + (ascii(tenant) - 96) % 3)".into(),
        "UPDATE t SET team = team % 3 + 1".into(),
        "UPDATE t SET open = NOT open".into(),
        format!("UPDATE t SET {swap_until} WHERE team = 2"),
        "UPDATE t SET id = nextval('token') WHERE team = 1".into(),
        format!(
            "UPDATE t SET id = nextval('token'), team = team % 3 + 1, tenant = chr(97 + (ascii(tenant) - 96) % 3), {SWAP}"
        ),
        format!(
            "BEGIN; UPDATE t SET {SWAP}; SAVEPOINT s; UPDATE t SET owner = 'ann', tenant = 'a', team = 1, open = true;
                 ROLLBACK TO s; UPDATE t SET open = NOT open WHERE team = 2; {insert}; COMMIT"
        ),
        format!("BEGIN; UPDATE t SET {SWAP}, note = 'in between'; UPDATE t SET {SWAP}; COMMIT"),
        "UPDATE t SET big = big || 'x', open = NOT open WHERE big IS NOT NULL AND team < 3".into(),
        format!(
            "BEGIN; UPDATE t SET owner = 'ann', tenant = 'a', team = 1, open = true, until = now() + interval '1 hour';
                 DELETE FROM t WHERE id % 2 = 0; UPDATE t SET {SWAP}, team = 3; COMMIT"
        ),
        "DELETE FROM t WHERE v % 3 = 0".into(),
        "UPDATE t SET tenant = NULL, team = NULL, until = NULL WHERE v % 3 = 1".into(),
        "DELETE FROM t".into(),
        insert.into(),
        format!("BEGIN; TRUNCATE t; {insert}; COMMIT"),
    ]
}

/// Runs the script before ann (member) and bob (manager). The policies are on the path that `paths` says.
#[track_caller]
fn kept(policies: &str, path: &str) -> Scene {
    let mut scene = Scene::new(policies);
    let (ann, bob) = (scene.enter("member", "ann"), scene.enter("manager", "bob"));
    for person in [ann, bob] {
        let (found, predicate) = scene.explain(person);
        assert_eq!(found, path, "{predicate}");
    }
    for (step, statement) in script().iter().enumerate() {
        scene.run(statement);
        if step % 5 == 2 {
            for person in &mut scene.people {
                person.client.leave();
            }
            scene.write("UPDATE t SET note = 'while nobody listened', open = NOT open WHERE team = 2");
            scene.write(&format!("UPDATE t SET {SWAP} WHERE team = 1; DELETE FROM t WHERE v % 17 = 0"));
            for person in &mut scene.people {
                person.client.resume();
            }
            scene.look();
        }
    }
    for person in [ann, bob] {
        assert!(
            scene.people[person].entitled.len() > 20,
            "{} has seen next to nothing",
            scene.people[person].client.options.name
        );
        assert!(scene.people[person].client.errors.is_empty(), "{:?}", scene.people[person].client.errors);
        // Right after a TRUNCATE its lock may be in the way of asking.
        let resyncs = scene.resyncs(person);
        assert!(
            resyncs.is_empty() || path == "asked" && resyncs.len() == 1,
            "writes are no change of access: {resyncs:?}"
        );
    }
    scene
}

const APP: &str = "(current_setting('request.jwt.claims', true)::jsonb -> 'app_metadata')";

#[test]
fn a_claim_that_equals_a_column_shows_rows_and_only_those() {
    kept(
        "CREATE POLICY p ON t USING (tenant = current_setting('request.jwt.claims', true)::json ->> 'tenant')",
        "folded",
    );
}

#[test]
fn a_claim_that_is_an_array_shows_rows_and_only_those() {
    kept(
        &format!(
            "CREATE POLICY p ON t USING (tenant = ANY(ARRAY(SELECT jsonb_array_elements_text({APP} -> 'tenants'))))"
        ),
        "folded",
    );
    kept(
        &format!("CREATE POLICY p ON t USING (tenant IN ({APP} #>> '{{tenants,0}}', {APP} #>> '{{tenants,1}}'))"),
        "folded",
    );
}

#[test]
fn a_claim_array_in_a_sub_select_shows_rows_and_only_those() {
    let mut scene = Scene::new(&format!(
        "CREATE POLICY p ON t USING (tenant IN (SELECT jsonb_array_elements_text({APP} -> 'tenants')))"
    ));
    scene.enter("member", "ann");
    scene.enter("manager", "bob");
    script().iter().for_each(|statement| scene.run(statement));
}

#[test]
fn memberships_of_roles_show_rows_and_only_those() {
    kept(
        "CREATE POLICY p ON t USING (pg_has_role(CASE owner WHEN 'ann' THEN 'member' ELSE 'manager' END, 'member'))",
        "folded",
    );
}

#[test]
fn an_owner_sees_his_rows_and_only_those() {
    kept(
        "CREATE POLICY p ON t USING (current_user = CASE owner WHEN 'ann' THEN 'member' ELSE 'manager' END)",
        "folded",
    );
    kept(&format!("CREATE POLICY p ON t USING (owner = {NAME})"), "folded");
}

#[test]
fn public_rows_and_ones_own_show_and_only_those() {
    kept(&format!("CREATE POLICY p ON t USING (open OR owner = {NAME})"), "folded");
}

#[test]
fn a_membership_table_shows_rows_to_its_members_only() {
    for registered in [false, true] {
        let mut scene = kept(
            &format!("CREATE POLICY p ON t USING (team IN (SELECT m.team FROM team_member m WHERE m.name = {NAME}))"),
            "asked",
        );
        if registered {
            scene.sql.register("team_member");
        }
        scene.run("INSERT INTO team_member VALUES ('ann', 3), ('bob', 1)");
        scene.run("UPDATE team_member SET name = CASE name WHEN 'ann' THEN 'bob' ELSE 'ann' END WHERE team = 2");
        scene.run("BEGIN; UPDATE t SET team = team % 3 + 1; DELETE FROM team_member WHERE name = 'ann'; COMMIT");
        assert_eq!(scene.count(0), 0);
        scene.run(
            "BEGIN; TRUNCATE team_member; INSERT INTO team_member SELECT 'ann', n FROM generate_series(1, 3) n; COMMIT",
        );
        assert_ne!(scene.count(0), 0);
        assert_eq!(scene.count(1), 0);
        assert_eq!(scene.resyncs(0), [], "rows enter and leave one by one");
        assert_eq!(scene.resyncs(1), []);
    }
}

#[test]
fn restrictive_policies_take_from_what_permissive_ones_give() {
    kept(
        &format!(
            "CREATE POLICY mine ON t USING (owner = {NAME}); CREATE POLICY open ON t FOR SELECT USING (open);
             CREATE POLICY managers ON t TO manager USING (team = 2);
             CREATE POLICY few ON t AS RESTRICTIVE USING (team <> 1);
             CREATE POLICY fewer ON t AS RESTRICTIVE TO member USING (tenant <> 'c')"
        ),
        "folded",
    );
}

#[test]
fn rows_whose_time_is_over_leave_without_a_write() {
    let mut scene = kept("CREATE POLICY p ON t USING (until > now())", "asked");
    scene.run("TRUNCATE t; INSERT INTO t (owner, until) VALUES ('ann', now() + interval '1 hour')");
    scene.write("INSERT INTO t (owner, until) VALUES ('ann', now() + interval '1500 milliseconds')");
    for person in &mut scene.people {
        person.client.wait_for("the row to come", |c| c.sub("t").rows.len() == 2);
    }
    for person in &mut scene.people {
        person.client.wait_for("the row to go", |c| c.sub("t").rows.len() == 1);
    }
}

#[test]
fn the_idiom_of_supabase_folds() {
    let mut scene = kept(
        "CREATE POLICY p ON t TO member, manager USING (owner_id = (SELECT auth.uid()) OR tenant = (SELECT auth.jwt() ->> 'tenant') AND open)",
        "folded",
    );
    let (_, predicate) = scene.explain(0);
    assert!(predicate.contains("00000000-0000-4000-8000-00000000000a") && !predicate.contains("auth."), "{predicate}");
    // The plain one is found by its column's value.
    let mut scene = kept("CREATE POLICY p ON t USING (owner_id = (SELECT auth.uid()))", "folded");
    let index = scene.sql.text("SELECT index_column FROM rte.explain_access('t', 'member', '{\"sub\": \"00000000-0000-4000-8000-00000000000a\"}')");
    assert_eq!(index, "owner_id");
}

#[test]
fn a_tenant_column_limits_sessions_to_their_tenant_with_and_without_policies() {
    for policies in ["CREATE POLICY p ON t USING (open OR team = 1)", "ALTER TABLE t DISABLE ROW LEVEL SECURITY"] {
        let mut scene = Scene::new(policies);
        scene.sql.run("SELECT rte.register_table('t', tenant_column => 'tenant')");
        scene.limit = Some("tenant = (current_setting('request.jwt.claims')::json ->> 'tenant')");
        scene.enter("member", "ann");
        scene.enter("manager", "bob");
        script().iter().for_each(|statement| scene.run(statement));
        scene.sql.run("ALTER TABLE t RENAME tenant TO renter");
        scene.limit = Some("renter = (current_setting('request.jwt.claims')::json ->> 'tenant')");
        scene.run(
            "INSERT INTO t (owner, renter, open) VALUES ('ann', 'a', true), ('bob', 'b', true), ('bob', NULL, true)",
        );
        assert!(scene.count(0) > 0 && scene.count(1) > 0);
    }
}

#[test]
fn keys_of_several_columns_are_followed_on_both_paths() {
    let key = "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (owner, id)";
    kept(&format!("{key}; CREATE POLICY p ON t USING (open OR owner = {NAME})"), "folded");
    let members = format!("team IN (SELECT m.team FROM team_member m WHERE m.name = {NAME})");
    kept(&format!("{key}; CREATE POLICY p ON t USING ({members})"), "asked");
}
