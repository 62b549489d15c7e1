//! Clients that no WebSocket reaches hold the same, and are judged alike. Who may see the figures.

use rte_testkit::{
    Client, Cluster, Crowd, Pgbench, Response, Signal, TPCB_TABLES, Tellers, TpcbSums, Transport, alive, alone,
    assert_equal, kill, request, rounds, seed, token, token_of, unix_now, wait_until,
};
use serde_json::{Value, json};

const ALL: [Transport; 3] = [Transport::WebSocket, Transport::Events, Transport::Poll];

/// A client over this transport, connected, that shows its token with the request.
#[track_caller]
fn client(cluster: &Cluster, transport: Transport, token: Option<&str>) -> Client {
    let mut client = Client::new(cluster.rte_port, &format!("{transport:?}"));
    client.options.transport = transport;
    client.options.token = token.map(ToOwned::to_owned);
    client.options.token_in_header = true;
    client.join();
    client
}

/// Clients over all transports follow TPC-B while the gateway is killed, and come back by their cursors.
fn follow(restless: Option<u64>, kills: usize) {
    let _alone = alone();
    let cluster = Cluster::ready();
    Pgbench::prepare(&cluster);
    let transports = [ALL, ALL].concat();
    let crowd = Crowd::start_over(&cluster, &transports, &TPCB_TABLES, restless, TpcbSums::default);
    let tellers = Tellers::start(&cluster, 4, seed("fallback"));
    let go_on = || {
        tellers.wait_done(200);
        crowd.wait_commits(40);
    };
    go_on();
    for _ in 0..kills {
        let gateway = cluster.worker("gateway");
        kill(gateway, Signal::KILL);
        wait_until("a new gateway", || {
            let new = cluster.worker("gateway");
            (new != gateway && !alive(gateway) && cluster.healthy()).then_some(())
        });
        go_on();
    }
    assert_eq!(tellers.failed(), 0, "no writer noticed");
    tellers.stop();
    let clients = crowd.finish(&mut cluster.sql());
    clients.iter().for_each(Client::assert_clean);
    if kills > 0 {
        for client in &clients {
            assert!(!client.outages.is_empty(), "{} lost its connection", client.options.name);
        }
    }
}

#[test]
fn clients_without_websockets_hold_what_the_others_hold_while_gateways_are_killed() {
    follow(None, rounds(3));
}

#[test]
fn clients_without_websockets_leave_and_resume_without_loss() {
    follow(Some(seed("fallback, restless")), 0);
}

#[test]
fn large_and_odd_values_arrive_by_every_way() {
    let cluster = Cluster::ready();
    let mut sql = cluster.sql();
    sql.table("odd", "id int PRIMARY KEY, j json, t text");
    // Line ends of all kinds inside of JSON that is embedded as it was stored.
    let insert = "INSERT INTO odd VALUES (%, E'{\"a\":\\n1,\\r\\n\"b\": [\\r\\n\\t1.10,\\r2]\\n}', E'x\\n\\r\\ny')";
    sql.run(&insert.replace('%', "1"));
    sql.run("INSERT INTO odd SELECT n, NULL, repeat(md5(n::text), 2000) FROM generate_series(100, 160) n");
    let mut clients = ALL.map(|transport| {
        let mut client = client(&cluster, transport, None);
        client.subscribe_barrier();
        client.subscribe("odd", "odd");
        client.wait_live();
        client
    });
    sql.run(&insert.replace('%', "2"));
    sql.run("UPDATE odd SET t = repeat(md5(t), 5000) WHERE id >= 100");
    for client in &mut clients {
        assert_equal(&mut sql, client);
        assert_eq!(client.sub("odd").rows.len(), 63);
        client.assert_clean();
    }
}

#[test]
fn a_token_of_the_request_counts_by_every_way_and_its_end_is_told() {
    let cluster = Cluster::builder().tokens().conf("rte.jwt_leeway", "0").ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE reader; GRANT reader TO authenticator");
    for transport in ALL {
        let hour = client(&cluster, transport, Some(&token_of(&json!({"role": "reader", "exp": unix_now() + 3600}))));
        let welcome = hour.welcome.expect("welcome");
        assert_eq!(welcome["role"], "reader");
        let left = welcome["expires_in_ms"].as_u64().expect("a time");
        assert!((3_500_000..=3_600_000).contains(&left), "{transport:?}: {left}");
        let short = token_of(&json!({"role": "reader", "exp": unix_now() + 3}));
        let mut short = client(&cluster, transport, Some(&short));
        assert_eq!(short.wait_closed().code, Some(4401), "{transport:?}");
        short.wait_error("UNAUTHORIZED");
        let mut wrong = Client::new(cluster.rte_port, "wrong");
        wrong.options.transport = transport;
        wrong.options.token = Some("nonsense".into());
        wrong.options.token_in_header = true;
        assert_eq!(wrong.try_join().expect_err("refused").code, Some(4401), "{transport:?}");
        let anonymous = client(&cluster, transport, None);
        assert!(anonymous.welcome.is_some_and(|w| w.get("expires_in_ms").is_none()));
    }
}

#[test]
fn the_view_says_how_clients_are_connected() {
    let cluster = Cluster::ready();
    let _clients = ALL.map(|transport| client(&cluster, transport, None));
    let shown = "SELECT transport FROM rte.connections ORDER BY 1";
    wait_until("all clients in the view", || {
        (cluster.sql().texts(shown) == ["events", "poll", "websocket"]).then_some(())
    });
}

/// Figures as somebody else's proxy asks for them, so that the host's own trust does not count.
#[track_caller]
fn figures(cluster: &Cluster, path: &str, token: Option<&str>) -> Response {
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let port = cluster.rte_port;
    let text = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Forwarded-For: 203.0.113.9\r\n{bearer}\r\n");
    request(port, &text).expect("an answer")
}

#[test]
fn figures_are_shown_to_members_of_pg_monitor_and_to_nobody_else() {
    let cluster = Cluster::builder().tokens().conf("rte.max_failed_tokens", "3").ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE reader; CREATE ROLE watcher; GRANT reader, watcher TO authenticator");
    sql.run("GRANT pg_monitor TO watcher");
    sql.table("things", "id int PRIMARY KEY");
    let mut holder = cluster.subscriber("holder", &["things"]);
    sql.run("INSERT INTO things SELECT generate_series(1, 10)");
    assert_equal(&mut sql, &mut holder);
    for path in ["/stats", "/metrics"] {
        assert_eq!(figures(&cluster, path, None).status, 403);
        assert_eq!(figures(&cluster, path, Some(&token("reader"))).status, 403);
        assert_eq!(figures(&cluster, path, Some(&token("watcher"))).status, 200);
    }
    // A right that is taken away is gone at the next question.
    sql.run("REVOKE pg_monitor FROM watcher");
    wait_until("the right to be gone", || {
        (figures(&cluster, "/stats", Some(&token("watcher"))).status == 403).then_some(())
    });
    sql.run("GRANT pg_monitor TO watcher");
    let stats = wait_until("the right to be back", || {
        Some(figures(&cluster, "/stats", Some(&token("watcher")))).filter(|answer| answer.status == 200)
    });
    let stats: Value = serde_json::from_str(&stats.body).expect("json");
    assert!(stats["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{stats}");
    let landlord = &stats["tenants"][0];
    assert_eq!((&landlord["tenant"], &landlord["database"]), (&json!(""), &json!("postgres")));
    for name in ["ticks_total", "changes_total", "deliveries_total"] {
        assert!(landlord[name].as_u64().is_some_and(|count| count > 0), "{name}: {landlord}");
    }
    wait_until("the sweep", || {
        let stats = figures(&cluster, "/stats", Some(&token("watcher"))).body;
        let stats: Value = serde_json::from_str(&stats).expect("json");
        let found = &stats["tenants"][0];
        (found["connections"] == 1 && found["subscriptions"] == 2 && found["sent_bytes_total"] != 0).then_some(())
    });
    // Wrong tokens count as everywhere.
    for _ in 0..3 {
        let wrong = figures(&cluster, "/stats", Some("nonsense"));
        assert_eq!(wrong.status, 401);
        assert!(wrong.head.contains("WWW-Authenticate: Bearer"), "{}", wrong.head);
    }
    assert_eq!(figures(&cluster, "/stats", Some("nonsense")).status, 429);
}

#[test]
fn figures_of_whom_a_function_knows_are_asked_of_it() {
    let cluster = Cluster::builder().tokens().conf("rte.authenticate_function", "public.whose").ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE watcher; GRANT watcher TO authenticator; GRANT pg_monitor TO watcher");
    sql.run(
        "CREATE FUNCTION public.whose(token text, tenant text, client jsonb) RETURNS TABLE (role text, claims jsonb)
         LANGUAGE sql STABLE AS $$ SELECT 'watcher', '{}'::jsonb WHERE token = 'good' $$;
         GRANT EXECUTE ON FUNCTION public.whose(text, text, jsonb) TO authenticator",
    );
    assert_eq!(figures(&cluster, "/stats", Some("good")).status, 200);
    assert_eq!(figures(&cluster, "/stats", Some("bad")).status, 401);
}
