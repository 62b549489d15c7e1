//! What `make run` shows side by side, with the very files that it runs.

use rte_testkit::{Client, Cluster, Sql, difference, token_of};
use serde_json::json;
use std::fs::File;

/// A shop's table and policies, a tenant of the cluster.
fn shop() -> (Cluster, Sql) {
    let cluster = Cluster::builder().tokens().conf("max_worker_processes", "16").ready();
    let mut landlord = cluster.sql();
    landlord.run("CREATE ROLE manager; CREATE ROLE clerk; GRANT manager, clerk TO authenticator");
    landlord.run("CREATE DATABASE acme");
    run(&cluster, "acme", &[], include_str!("../sql/demo_shop.sql"));
    let given = ["-v", "title=Side by side", "-v", "address=/compare"];
    run(&cluster, "postgres", &given, include_str!("../sql/demo_tenants.sql"));
    let sql = cluster.sql_in("acme");
    (cluster, sql)
}

#[track_caller]
fn run(cluster: &Cluster, database: &str, options: &[&str], script: &str) {
    let done = cluster.psql(database, &[&["-v", "ON_ERROR_STOP=1"], options].concat(), script);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Somebody with a token of the shop's, who holds the orders.
fn visitor(cluster: &Cluster, role: &str, sub: &str) -> Client {
    let mut client = Client::new(cluster.rte_port, sub);
    client.options.tenant = Some("acme".into());
    client.options.token = Some(token_of(&json!({"role": role, "sub": sub, "tenant": "acme"})));
    client.come_back();
    client.errors.clear();
    client.subscribe("orders", "orders");
    client.carry_on("the orders", |c| c.copy.all_live());
    client
}

/// Waits until the visitor holds exactly what the role reads in Postgres.
#[track_caller]
fn sees_what_the_role_reads(sql: &mut Sql, client: &mut Client, role: &str) {
    sql.run(&format!("SET ROLE {role}; SET request.jwt.claims = '{{\"sub\": \"{}\"}}'", client.options.name));
    client.carry_on("what the role reads", |c| difference(sql, c.sub("orders")).is_none());
    sql.run("RESET ROLE");
}

fn columns(client: &Client) -> Vec<&str> {
    client.sub("orders").columns.iter().map(|c| &*c.name).collect()
}

#[test]
fn the_demos_visitors_see_what_its_policies_say_and_nothing_else() {
    let (cluster, mut sql) = shop();
    let mut alice = visitor(&cluster, "manager", "alice");
    let (mut carl, mut dora) = (visitor(&cluster, "clerk", "carl"), visitor(&cluster, "clerk", "dora"));
    assert_eq!(columns(&alice), ["id", "item", "handled_by", "state", "price", "cost"]);
    assert_eq!(columns(&carl), ["id", "item", "handled_by", "state", "price"]);
    let count = |client: &Client| client.sub("orders").rows.len();
    assert_eq!((count(&alice), count(&carl), count(&dora)), (7, 4, 3));
    // What the demo's load does, and what its text invites to.
    let load = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/demo_shop_load.sql");
    let mut pgbench = cluster.tool("pgbench");
    pgbench.args(["-n", "-c", "2", "-t", "60", "-f", "-", "acme"]).stdin(File::open(load).expect("the load"));
    let done = pgbench.output().expect("pgbench");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    sees_what_the_role_reads(&mut sql, &mut alice, "manager");
    sees_what_the_role_reads(&mut sql, &mut carl, "clerk");
    sees_what_the_role_reads(&mut sql, &mut dora, "clerk");
    sql.run("UPDATE orders SET handled_by = 'carl'");
    dora.carry_on("nothing left", |c| c.sub("orders").rows.is_empty());
    sees_what_the_role_reads(&mut sql, &mut carl, "clerk");
    assert_eq!(count(&carl), count(&alice));
    sql.run("GRANT SELECT (cost) ON orders TO clerk");
    carl.carry_on("the cost", |c| c.copy.all_live() && columns(c).last() == Some(&"cost"));
    sees_what_the_role_reads(&mut sql, &mut carl, "clerk");
}
