//! Nothing of one tenant reaches another.

use super::{client, database, roomy};
use rte_testkit::assert_equal;

#[test]
fn a_cursor_of_one_tenant_is_worth_nothing_at_another() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let mut databases = ["red", "blue"].map(|name| database(&cluster, name));
    landlord.run("SELECT rte.register_tenant('red'), rte.register_tenant('blue')");
    let (mut red, mut blue) = (client(&cluster, "red"), client(&cluster, "blue"));
    for (n, sql) in databases.iter_mut().enumerate() {
        sql.run(&format!("INSERT INTO t VALUES (7, 'secret {n}')"));
    }
    assert_equal(&mut databases[0], &mut red);
    assert_equal(&mut databases[1], &mut blue);
    // Red's cursor and subscriptions, said to blue.
    red.leave();
    red.options.tenant = Some("blue".into());
    red.join();
    let failure = red.wait_error("INVALID_CURSOR");
    assert!(!failure.message.contains("red\"") && !failure.message.contains("blue"), "{failure:?}");
    red.wait_live();
    assert_equal(&mut databases[1], &mut red);
    assert_eq!(red.sub("t").row(&["7"]).map(|r| r.to_owned()), blue.sub("t").row(&["7"]).map(|r| r.to_owned()));
}

#[test]
fn views_show_a_tenant_nothing_of_another() {
    let cluster = roomy().ready();
    let mut landlord = cluster.sql();
    let mut databases = ["red", "blue"].map(|name| database(&cluster, name));
    landlord.run("SELECT rte.register_tenant('red'), rte.register_tenant('blue')");
    let _clients = [client(&cluster, "red"), client(&cluster, "red"), client(&cluster, "blue")];
    let own = cluster.client("landlord's");
    for (sql, (name, count)) in databases.iter_mut().zip([("red", 2), ("blue", 1)]) {
        assert_eq!(sql.texts("SELECT DISTINCT tenant FROM rte.connections"), [name]);
        assert_eq!(sql.number("SELECT count(*) FROM rte.connections"), count);
        assert_eq!(sql.number("SELECT count(*) FROM rte.subscriptions"), 2 * count);
        assert_eq!(sql.number("SELECT count(*) FROM rte.tenants"), 0);
        let fails = sql.fails("SELECT rte.register_tenant('x')");
        assert_eq!(fails.0, "55000", "{fails:?}");
    }
    assert_eq!(landlord.number("SELECT count(*) FROM rte.connections"), 1);
    rte_testkit::wait_until("the landlord's figures", || {
        let shown = landlord.texts("SELECT name || connections FROM rte.tenants ORDER BY name");
        (shown == ["blue1", "red2"]).then_some(())
    });
    drop(own);
}
