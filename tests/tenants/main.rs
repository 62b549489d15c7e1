//! Tenants with databases of their own: they come and go by a row's commit, share the workers there are, and nothing of one
//! reaches another.

mod apart;
mod coming;
mod many;
mod sleep;
mod sources;

use rte_testkit::{Builder, Client, Cluster, Sql};

/// A cluster in which all tenants of a test can be served at once.
fn roomy() -> Builder {
    Cluster::builder().conf("max_worker_processes", "40")
}

/// A tenant's database with the extension and a table `t` of one row, which names the tenant.
#[track_caller]
fn database(cluster: &Cluster, name: &str) -> Sql {
    cluster.sql().run(&format!("CREATE DATABASE \"{name}\""));
    let mut sql = cluster.sql_in(name);
    sql.prepare_database();
    fill(&mut sql, name);
    sql
}

/// The table `t`, where the extension is there already.
#[track_caller]
fn fill(sql: &mut Sql, name: &str) {
    sql.table("t", "id int PRIMARY KEY, v text");
    sql.run(&format!("INSERT INTO t VALUES (0, '{name}')"));
}

/// A client that is not connected yet.
fn stranger(cluster: &Cluster, tenant: &str) -> Client {
    let mut client = Client::new(cluster.rte_port, tenant);
    client.options.tenant = Some(tenant.to_owned());
    client
}

/// A client of a tenant that holds `t` and the barrier's table.
#[track_caller]
fn client(cluster: &Cluster, tenant: &str) -> Client {
    let mut client = stranger(cluster, tenant);
    client.come_back();
    // It may have been faster than the news of its tenant.
    client.errors.clear();
    client.subscribe_barrier();
    client.subscribe("t", "t");
    client.carry_on("the tenant's rows", |c| c.copy.all_live());
    client.outages.clear();
    client
}

/// State of a tenant in the view.
#[track_caller]
fn state(landlord: &mut Sql, tenant: &str) -> String {
    landlord.texts(&format!("SELECT state FROM rte.tenants WHERE name = '{tenant}'")).pop().unwrap_or_default()
}

#[track_caller]
fn wait_state(landlord: &mut Sql, tenant: &str, wanted: &str) {
    let mut last = String::new();
    let found = rte_testkit::within(rte_testkit::patience(), || {
        last = state(landlord, tenant);
        (last == wanted).then_some(())
    });
    assert!(found.is_some(), "tenant {tenant} is {last:?}, not {wanted:?}");
}

/// Waits until the server refuses the client with this close code and error.
#[track_caller]
fn wait_refused(client: &mut Client, close: u16, code: &str) {
    let mut last = None;
    let found = rte_testkit::within(rte_testkit::patience(), || {
        client.errors.clear();
        let closed = client.try_join().err();
        last = Some((closed.and_then(|c| c.code), client.errors.pop().map(|e| e.code)));
        (last == Some((Some(close), Some(code.to_owned())))).then_some(())
    });
    assert!(found.is_some(), "{}: {last:?}, not {close} {code}", client.options.name);
}
