//! Who is let in by a token, as whom, and for how long.

use rte_testkit::{
    Client, Closed, Cluster, SECRET, Shutdown, Signal, Sql, State, TokenKey, assert_equal, kill, token, token_of,
    unix_now, wait_until,
};
use serde_json::{Value, json};

/// A cluster with tokens, the roles `reader` and `writer`, and a table that only readers may read.
fn cluster(conf: &[(&str, &str)]) -> (Cluster, Sql) {
    let builder = conf.iter().fold(Cluster::builder().tokens(), |builder, (name, value)| builder.conf(name, value));
    let cluster = builder.ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE reader; CREATE ROLE writer; GRANT reader, writer TO authenticator");
    sql.table("secrets", "id int PRIMARY KEY, v text");
    sql.run("REVOKE ALL ON secrets FROM web_anon; GRANT SELECT ON secrets, kit_barrier TO reader");
    sql.run("INSERT INTO secrets VALUES (1, 'one')");
    (cluster, sql)
}

/// How a token is refused: close code, error code, message.
#[track_caller]
fn refused(cluster: &Cluster, token: &str) -> (u16, String, String) {
    match cluster.knock("refused", token) {
        Ok(client) => panic!("it was welcome: {:?}", client.welcome),
        Err((client, Closed { code, .. })) => {
            let error = client.errors.last().expect("an error before the close");
            (code.expect("a close code"), error.code.clone(), error.message.clone())
        }
    }
}

#[track_caller]
fn not_accepted(cluster: &Cluster, token: &str) {
    let expected = (4401, "UNAUTHORIZED".to_owned(), "the token is not accepted".to_owned());
    assert_eq!(refused(cluster, token), expected);
}

fn role(client: &Client) -> &str {
    client.welcome.as_ref().and_then(|w| w["role"].as_str()).unwrap_or_default()
}

fn logged(cluster: &Cluster, what: &str) {
    wait_until(what, || cluster.log().contains(what).then_some(()));
}

#[test]
fn a_token_lets_in_as_its_role_and_only_as_that() {
    let (cluster, mut sql) = cluster(&[]);
    let mut reader = cluster.client_with("reader", &token("reader"));
    assert_eq!(role(&reader), "reader");
    reader.subscribe_barrier();
    reader.subscribe("secrets", "secrets");
    reader.wait_live();
    sql.run("INSERT INTO secrets VALUES (2, 'two')");
    assert_equal(&mut sql, &mut reader);
    reader.assert_clean();
    for mut other in [cluster.client("anonymous"), cluster.client_with("writer", &token("writer"))] {
        other.subscribe("secrets", "secrets");
        other.wait_error("UNKNOWN_TABLE");
        assert!(other.copy.subscriptions["secrets"].rows.is_empty());
    }
    // A token without a role is the anonymous role's.
    let client = cluster.client_with("no role", &token_of(&json!({"sub": "someone"})));
    assert_eq!(role(&client), "web_anon");
}

#[test]
fn a_schema_has_to_be_open_to_the_role_and_not_to_the_authenticator() {
    let (cluster, mut sql) = cluster(&[]);
    sql.run("CREATE SCHEMA api; CREATE TABLE api.notes (id int PRIMARY KEY, v text); INSERT INTO api.notes VALUES (1, 'one')");
    sql.run("SELECT rte.register_table('api.notes'); GRANT SELECT ON api.notes TO reader, writer; GRANT USAGE ON SCHEMA api TO reader");
    let mut reader = cluster.client_with("reader", &token("reader"));
    reader.subscribe_barrier();
    reader.subscribe("notes", "api.notes");
    reader.wait_live();
    sql.run("INSERT INTO api.notes VALUES (2, 'two')");
    assert_equal(&mut sql, &mut reader);
    assert_eq!(reader.copy.subscriptions["notes"].rows.len(), 2);
    reader.assert_clean();
    let mut writer = cluster.client_with("writer", &token("writer"));
    writer.subscribe("notes", "api.notes");
    writer.wait_error("UNKNOWN_TABLE");
}

#[test]
fn tokens_that_are_wrong_are_refused_and_the_log_says_why() {
    let (cluster, _) =
        cluster(&[("rte.jwt_audience", "app"), ("rte.jwt_issuer", "https://id.example"), ("rte.jwt_leeway", "0")]);
    let now = unix_now();
    let good = json!({"role": "reader", "aud": "app", "iss": "https://id.example", "exp": now + 600});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token_of(&claims)
    };
    assert_eq!(role(&cluster.client_with("good", &token_of(&good))), "reader");
    let secret = TokenKey::Secret(SECRET.into());
    let none = secret.sign_with_header(&json!({"alg": "none"}), &good);
    let unsigned = format!("{}.", &none[..none.rfind('.').expect("three parts")]);
    let (kept, other) = (token_of(&good), TokenKey::Secret("another-secret-0123456789-abcdefgh-XYZ".into()));
    let tampered = format!("{}A{}", &kept[..40], &kept[41..]);
    for (token, why) in [
        (none, "algorithm"),
        (unsigned, "algorithm"),
        (other.sign(None, &good), "signature"),
        (tampered, "not"),
        (TokenKey::Rsa.sign(None, &good), "no key"),
        (secret.sign_with_header(&json!({"alg": "RS256"}), &good), "no key"),
        (with("nbf", json!(now + 600)), "not valid yet"),
        (with("iat", json!(now + 600)), "in the future"),
        (with("aud", json!("another")), "audience"),
        (with("iss", json!("https://evil.example")), "issuer"),
        (with("role", json!(["reader"])), "role claim"),
        ("nonsense".to_owned(), "not a JSON Web Token"),
        (String::new(), "not a JSON Web Token"),
        ("x".repeat(20_000), "longer than"),
    ] {
        not_accepted(&cluster, &token);
        logged(&cluster, why);
        assert!(token.len() < 9 || !cluster.log().contains(&token), "no token is in the log");
    }
    let expired = refused(&cluster, &with("exp", json!(now - 1)));
    assert_eq!(expired, (4401, "UNAUTHORIZED".to_owned(), "the token has expired".to_owned()));
    assert!(!cluster.log().contains(SECRET));
}

#[test]
fn only_roles_that_are_granted_to_the_authenticator_can_be_acted_as() {
    let (cluster, mut sql) = cluster(&[]);
    sql.run(
        "CREATE ROLE ungranted; CREATE ROLE boss SUPERUSER; GRANT boss TO authenticator;
         CREATE ROLE group_of_readers; GRANT group_of_readers TO reader;
         CREATE ROLE keeper BYPASSRLS; GRANT keeper TO authenticator; CREATE ROLE \"Ünï code\"; GRANT \"Ünï code\" TO authenticator",
    );
    for name in ["ungranted", "boss", "postgres", "missing", "READER", "reader ", "none", "public", "pg_read_all_data"]
    {
        let (code, error, message) = refused(&cluster, &token(name));
        let words = "the token's role may not be used here";
        assert_eq!((code, error.as_str(), message.as_str()), (4403, "FORBIDDEN", words), "{name}");
    }
    assert_eq!(refused(&cluster, &token(&"r".repeat(64))).0, 4403);
    logged(&cluster, "role \"ungranted\" is not granted to \"authenticator\"");
    logged(&cluster, "role \"boss\" is a superuser");
    for name in ["reader", "group_of_readers", "keeper", "authenticator", "Ünï code"] {
        assert_eq!(role(&cluster.client_with(name, &token(name))), name);
    }
}

#[test]
fn without_an_authenticator_no_token_counts_and_anonymous_clients_go_on() {
    let cluster = Cluster::builder().conf("rte.jwt_secret", SECRET).ready();
    let mut sql = cluster.sql();
    sql.run("CREATE ROLE reader");
    let (code, error, message) = refused(&cluster, &token("reader"));
    assert_eq!((code, error.as_str(), message.as_str()), (4403, "FORBIDDEN", "tokens are not set up correctly"));
    logged(&cluster, "rte.authenticator_role is not set");
    sql.table("t", "id int PRIMARY KEY");
    assert_equal(&mut sql, &mut cluster.subscriber("anonymous", &["t"]));
}

#[test]
fn an_authenticator_that_could_do_more_than_its_roles_lets_nobody_in() {
    let (cluster, mut sql) = cluster(&[]);
    for (change, why) in [
        ("ALTER ROLE authenticator SUPERUSER", "is a superuser"),
        ("ALTER ROLE authenticator NOSUPERUSER BYPASSRLS", "bypasses row-level security"),
        (
            "ALTER ROLE authenticator NOBYPASSRLS; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
            "may not connect to this database",
        ),
    ] {
        let mut before = cluster.knock("before", &token("reader"));
        sql.run(change);
        if let Ok(client) = &mut before {
            assert_eq!(client.wait_closed().code, Some(4403), "{change}");
        }
        wait_until(why, || cluster.log().contains(why).then_some(()));
        assert_eq!(refused(&cluster, &token("reader")).0, 4403, "{change}");
        assert!(Client::new(cluster.rte_port, "anonymous").try_join().is_err(), "{change}");
    }
    sql.run("GRANT CONNECT ON DATABASE postgres TO authenticator");
    wait_until("reader to be welcome again", || cluster.knock("after", &token("reader")).ok());
}

#[test]
fn an_open_session_ends_with_its_token_unless_it_is_renewed() {
    let (cluster, mut sql) = cluster(&[("rte.jwt_leeway", "0")]);
    let short = || token_of(&json!({"role": "reader", "exp": unix_now() + 3}));
    let mut kept = cluster.client_with("kept", &short());
    let mut ended = cluster.client_with("ended", &short());
    for client in [&mut kept, &mut ended] {
        client.subscribe_barrier();
        client.subscribe("secrets", "secrets");
        client.wait_live();
    }
    kept.send(&json!({"type": "auth", "token": token("reader")}));
    let closed = ended.wait_closed();
    assert_eq!(closed.code, Some(4401));
    assert_eq!(ended.errors.last().map(|e| e.message.as_str()), Some("the token has expired"));
    // The first token of this one is over too.
    sql.run("INSERT INTO secrets VALUES (2, 'two')");
    assert_equal(&mut sql, &mut kept);
    kept.assert_clean();
    // It comes back with a new token, and with its cursor.
    sql.run("INSERT INTO secrets VALUES (3, 'three')");
    ended.options.token = Some(token("reader"));
    ended.errors.clear();
    ended.join();
    assert_equal(&mut sql, &mut ended);
    assert_eq!(ended.copy.counts.resumed, 2);
}

#[test]
fn a_renewal_with_a_wrong_token_ends_the_session() {
    let (cluster, _) = cluster(&[]);
    for (token, code) in [("nonsense".to_owned(), 4401), (token("postgres"), 4403)] {
        let mut client = cluster.client_with("c", &crate::token("reader"));
        client.send(&json!({"type": "auth", "token": token}));
        assert_eq!(client.wait_closed().code, Some(code));
    }
}

#[test]
fn a_renewal_as_another_role_sees_what_that_role_sees() {
    let (cluster, mut sql) = cluster(&[]);
    sql.run("GRANT SELECT ON kit_barrier TO writer");
    let mut client = cluster.client_with("c", &token("reader"));
    client.subscribe_barrier();
    client.subscribe("secrets", "secrets");
    client.wait_live();
    client.send(&json!({"type": "auth", "token": token("writer")}));
    client.wait_for("the end of what a writer may not read", |c| c.sub("secrets").state == State::Ended);
    client.copy.subscriptions.remove("secrets");
    sql.run("INSERT INTO secrets VALUES (2, 'two')");
    let mark = sql.barrier();
    client.wait_barrier(mark);
}

#[test]
fn roles_that_are_revoked_or_dropped_end_their_sessions() {
    let (cluster, mut sql) = cluster(&[]);
    let mut reader = cluster.client_with("reader", &token("reader"));
    let mut writer = cluster.client_with("writer", &token("writer"));
    sql.run("REVOKE reader FROM authenticator");
    assert_eq!(reader.wait_closed().code, Some(4403));
    sql.run("DROP ROLE writer");
    assert_eq!(writer.wait_closed().code, Some(4403));
    assert_eq!(refused(&cluster, &token("writer")).0, 4403);
    sql.run("CREATE ROLE writer; GRANT writer TO authenticator");
    wait_until("the new role to be welcome", || cluster.knock("writer", &token("writer")).ok());
}

#[test]
fn keys_of_a_file_count_and_are_read_again_on_reload() {
    let (cluster, _) = cluster(&[("rte.jwt_keys", "keys/web.jwks")]);
    std::fs::create_dir(cluster.data().join("keys")).expect("directory");
    let path = cluster.data().join("keys/web.jwks");
    let write = |text: &str| std::fs::write(&path, text).expect("jwks");
    let claims = json!({"role": "reader"});
    let keys = [TokenKey::Rsa, TokenKey::P256, TokenKey::P384, TokenKey::Ed];
    not_accepted(&cluster, &TokenKey::Rsa.sign(Some("a"), &claims));

    let all: Vec<Value> = keys.iter().enumerate().map(|(i, key)| key.jwk(&format!("k{i}"))).collect();
    write(&json!({ "keys": all }).to_string());
    cluster.reload();
    for (i, key) in keys.iter().enumerate() {
        let token = key.sign(Some(&format!("k{i}")), &claims);
        wait_until("the key counts", || cluster.knock("c", &token).ok());
        not_accepted(&cluster, &key.sign(Some("k9"), &claims));
        not_accepted(&cluster, &key.sign(Some(&format!("k{}", (i + 1) % keys.len())), &claims));
    }

    write("{ broken");
    cluster.reload();
    logged(&cluster, "the keys read before still count");
    assert!(cluster.knock("c", &TokenKey::Ed.sign(None, &claims)).is_ok(), "a broken file takes no key away");

    write(&json!({"keys": [TokenKey::P256.jwk("new")]}).to_string());
    cluster.reload();
    wait_until("the old key no longer counts", || cluster.knock("c", &TokenKey::Ed.sign(None, &claims)).err());
    assert!(cluster.knock("c", &TokenKey::P256.sign(Some("new"), &claims)).is_ok());
    assert!(cluster.knock("c", &token("reader")).is_ok(), "the shared secret counts beside the file");
}

#[test]
fn a_weak_secret_lets_nobody_in_and_is_not_repeated() {
    let (cluster, _) = cluster(&[("rte.jwt_secret", "hunter2")]);
    not_accepted(&cluster, &TokenKey::Secret("hunter2".into()).sign(None, &json!({"role": "reader"})));
    logged(&cluster, "rte.jwt_secret is refused: the shared secret has 7 bytes; at least 32 random bytes are needed");
    cluster.conf("rte.jwt_secret", &TokenKey::Rsa.jwk("k").to_string());
    cluster.reload();
    logged(&cluster, "looks like a PEM or JWK key");
    cluster.conf("rte.jwt_secret", SECRET);
    cluster.reload();
    wait_until("the strong one to count", || cluster.knock("c", &token("reader")).ok());
    // Postgres itself writes what changed in its configuration.
    let log = cluster.log();
    let ours: Vec<&str> = log.lines().filter(|line| !line.contains("postmaster LOG:  parameter")).collect();
    assert!(!ours.iter().any(|line| line.contains("hunter2") || line.contains("\"n\"")), "no secret is in the log");
}

#[test]
fn the_secret_is_for_superusers_only() {
    let (_cluster, mut sql) = cluster(&[]);
    assert_eq!(sql.text("SHOW rte.jwt_secret"), SECRET);
    sql.run("SET ROLE reader");
    assert_eq!(sql.fails("SHOW rte.jwt_secret").0, "42501");
    assert_eq!(sql.fails("SELECT current_setting('rte.jwt_secret')").0, "42501");
    assert_eq!(sql.fails("SET rte.jwt_secret = 'mine'").0, "42501");
    assert_eq!(sql.fails("SET rte.authenticator_role = 'postgres'").0, "42501");
    assert_eq!(sql.number("SELECT count(*) FROM pg_settings WHERE name = 'rte.jwt_secret'"), 0);
}

#[test]
fn a_database_may_have_keys_of_its_own() {
    let (cluster, mut sql) = cluster(&[]);
    let own = TokenKey::Secret("of-this-database-7Zq1Xw9Rv3Kc5Lm2-Tb8".into());
    let mine = own.sign(None, &json!({"role": "reader"}));
    not_accepted(&cluster, &mine);
    sql.run("ALTER DATABASE postgres SET rte.jwt_secret = 'of-this-database-7Zq1Xw9Rv3Kc5Lm2-Tb8'");
    cluster.reload();
    wait_until("the database's own secret to count", || cluster.knock("c", &mine).ok());
    not_accepted(&cluster, &token("reader"));
}

#[test]
fn the_role_is_where_the_settings_say() {
    let (cluster, _) = cluster(&[("rte.jwt_role_claim", ".\"https://example.com\".roles[1]")]);
    let claims = json!({"role": "writer", "https://example.com": {"roles": ["writer", "reader"]}});
    assert_eq!(role(&cluster.client_with("c", &token_of(&claims))), "reader");
    cluster.conf("rte.jwt_role_claim", "[nonsense");
    cluster.reload();
    logged(&cluster, "rte.jwt_role_claim is no place of a claim");
    not_accepted(&cluster, &token_of(&claims));
}

/// Names of the roles that query workers are connected as.
fn workers(sql: &mut Sql) -> Vec<String> {
    sql.texts("SELECT DISTINCT usename FROM pg_stat_activity WHERE backend_type = 'whagons_rte query worker'")
}

#[test]
fn query_workers_connect_as_the_authenticator() {
    let (cluster, mut sql) = cluster(&[]);
    let mut reader = cluster.client_with("reader", &token("reader"));
    reader.subscribe_barrier();
    reader.subscribe("secrets", "secrets");
    reader.wait_live();
    assert_eq!(workers(&mut sql), ["authenticator"]);

    sql.run("CREATE ROLE second LOGIN; GRANT reader, web_anon TO second");
    cluster.conf("rte.authenticator_role", "second");
    cluster.reload();
    wait_until("workers of the former role to end", || {
        (!workers(&mut sql).contains(&"authenticator".to_owned())).then_some(())
    });
    reader.subscribe("again", "secrets");
    reader.wait_live();
    assert_eq!(workers(&mut sql), ["second"]);
    assert_equal(&mut sql, &mut reader);

    // Without a reload: the role that it is connected as is no longer what it was.
    sql.run("ALTER ROLE second RENAME TO third; CREATE ROLE second LOGIN; GRANT reader, web_anon TO second");
    wait_until("the client to be welcome as a role of the new one", || {
        let mut client = cluster.knock("reader", &token("reader")).ok()?;
        client.subscribe("secrets", "secrets");
        client.wait_live();
        Some(())
    });
    assert_eq!(sql.number("SELECT count(*) FROM pg_stat_activity WHERE usesysid = 'third'::regrole"), 0);
}

#[test]
fn a_policy_that_takes_too_long_costs_its_subscription_and_no_other() {
    let (cluster, mut sql) =
        cluster(&[("rte.statement_timeout", "200ms"), ("rte.policy_timeout", "1min"), ("rte.query_workers", "1")]);
    sql.table("slow", "id int PRIMARY KEY");
    sql.run(
        "CREATE FUNCTION public.wait(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.6); RETURN true; END';
         INSERT INTO slow VALUES (1); ALTER TABLE slow ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON slow USING (wait(id)); GRANT SELECT ON slow TO reader",
    );
    let mut reader = cluster.client_with("reader", &token("reader"));
    reader.subscribe_barrier();
    reader.subscribe("slow", "slow");
    assert_eq!(reader.wait_error("SNAPSHOT_FAILED").id.as_deref(), Some("slow"));
    reader.wait_for("its end", |c| c.sub("slow").state == State::Ended);
    reader.copy.subscriptions.remove("slow");
    reader.subscribe("secrets", "secrets");
    assert_equal(&mut sql, &mut reader);
}

/// A table of tokens, and the function that looks them up.
fn with_hook(sql: &mut Sql) {
    sql.run(
        "CREATE SCHEMA auth;
         CREATE TABLE auth.token (token text PRIMARY KEY, role text, claims jsonb, used int NOT NULL DEFAULT 0, client jsonb);
         CREATE FUNCTION auth.look(token text, tenant text, client jsonb) RETURNS TABLE (role text, claims jsonb)
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
         BEGIN
             IF token = 'raises' THEN RAISE EXCEPTION 'the token % is bad', token; END IF;
             IF token = 'sleeps' THEN PERFORM pg_sleep(3600); END IF;
             RETURN QUERY UPDATE auth.token t SET used = t.used + 1, client = look.client
                          WHERE t.token = look.token RETURNING t.role, t.claims;
         END $$;
         REVOKE ALL ON FUNCTION auth.look FROM PUBLIC;
         GRANT USAGE ON SCHEMA auth TO authenticator; GRANT EXECUTE ON FUNCTION auth.look TO authenticator;
         INSERT INTO auth.token VALUES ('good', 'reader', '{\"sub\": \"u1\"}'), ('no claims', 'reader', NULL),
             ('no role', NULL, '{}'), ('not granted', 'postgres', '{}'), ('not an object', 'reader', '[1]')",
    );
}

#[test]
fn a_sql_function_may_say_whose_a_token_is() {
    let (cluster, mut sql) = cluster(&[("rte.authenticate_function", "auth.look"), ("rte.statement_timeout", "1s")]);
    with_hook(&mut sql);
    let mut reader = cluster.client_with("reader", "good");
    assert_eq!(role(&reader), "reader");
    reader.subscribe_barrier();
    reader.subscribe("secrets", "secrets");
    reader.wait_live();
    assert_equal(&mut sql, &mut reader);
    assert_eq!(sql.text("SELECT used FROM auth.token WHERE token = 'good'"), "1", "it may write");
    assert_eq!(sql.text("SELECT client->>'name' FROM auth.token WHERE token = 'good'"), "reader");
    assert_eq!(sql.text("SELECT client->>'address' LIKE '127.0.0.1%' FROM auth.token WHERE token = 'good'"), "t");
    assert_eq!(role(&cluster.client_with("c", "no claims")), "reader");
    assert_eq!(role(&cluster.client("anonymous")), "web_anon", "without a token nobody asks");

    for token in ["unknown", "no role", "not an object", "raises", "'; DROP TABLE auth.token; --", &token("reader")] {
        not_accepted(&cluster, token);
    }
    assert_eq!(refused(&cluster, "not granted").0, 4403);
    logged(&cluster, "rte.authenticate_function raised error P0001");
    assert!(!cluster.log().contains("is bad"), "what the function raises may hold the token");
    let (code, error, _) = refused(&cluster, "sleeps");
    assert_eq!((code, error.as_str()), (1013, "NOT_READY"), "its time is bounded, and the token is not to blame");

    // Renewal asks again, and expiry is the claims'.
    reader.send(&json!({"type": "auth", "token": "good"}));
    wait_until("the renewal", || (sql.text("SELECT used FROM auth.token WHERE token = 'good'") == "2").then_some(()));
    let soon = unix_now() + 2;
    sql.run(&format!("INSERT INTO auth.token VALUES ('short', 'reader', '{{\"exp\": {soon}}}')"));
    reader.send(&json!({"type": "auth", "token": "short"}));
    assert_eq!(reader.wait_closed().code, Some(4401));
    assert!(unix_now() >= soon, "not before its time");
}

#[test]
fn a_function_that_is_not_as_it_should_be_is_named_in_the_log() {
    let (cluster, mut sql) = cluster(&[("rte.authenticate_function", "auth.look")]);
    not_accepted(&cluster, "good");
    logged(&cluster, "there is no function auth.look(text,text,jsonb)");
    with_hook(&mut sql);
    wait_until("it is there", || cluster.knock("c", "good").ok());
    sql.run("REVOKE EXECUTE ON FUNCTION auth.look FROM authenticator");
    not_accepted(&cluster, "good");
    logged(&cluster, "rte.authenticator_role may not call auth.look(text,text,jsonb)");
    sql.run(
        "DROP FUNCTION auth.look;
         CREATE FUNCTION auth.look(text, text, jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''reader'''",
    );
    not_accepted(&cluster, "good");
    logged(&cluster, "rte.authenticate_function cannot be called: column f.role does not exist");
    sql.run(
        "DROP FUNCTION auth.look;
         CREATE FUNCTION auth.look(text, text, jsonb, OUT role text, OUT claims jsonb) RETURNS SETOF record LANGUAGE sql
         AS $$ VALUES ('reader', '{}'::jsonb), ('writer', '{}') $$",
    );
    not_accepted(&cluster, "good");
    logged(&cluster, "gave more than one row");
}

#[test]
fn a_session_outlives_neither_its_token_nor_its_feeder() {
    let (mut cluster, mut sql) = cluster(&[]);
    let mut client = cluster.client_with("c", &token("reader"));
    client.subscribe_barrier();
    client.subscribe("secrets", "secrets");
    client.wait_live();
    cluster.restart(Shutdown::Fast);
    sql = {
        drop(sql);
        cluster.sql()
    };
    sql.run("INSERT INTO secrets VALUES (2, 'two')");
    client.come_back();
    assert_equal(&mut sql, &mut client);
    cluster.stop(Shutdown::Fast);
    cluster.conf("rte.jwt_secret", "another-secret-0123456789-abcdefgh-XYZ");
    cluster.start();
    cluster.wait_healthy();
    let closed = wait_until("an answer", || client.try_join().err().filter(|closed| closed.code == Some(4401)));
    assert_eq!(closed.code, Some(4401), "a cursor is no token");
}

#[test]
fn the_gateway_does_not_hold_the_secret() {
    let (cluster, _) = cluster(&[]);
    assert!(cluster.knock("c", &token("reader")).is_ok());
    assert_eq!(copies(cluster.worker("gateway"), SECRET.as_bytes()), 0);
    // The search finds it where it is.
    assert_ne!(copies(cluster.worker("feeder"), SECRET.as_bytes()), 0);
    // Another secret, and a gateway that is started after it was set.
    let other = "of-a-later-day-7Zq1Xw9Rv3Kc5Lm2-Tb8Yh4";
    cluster.conf("rte.jwt_secret", other);
    cluster.reload();
    let later = TokenKey::Secret(other.into()).sign(None, &json!({"role": "reader"}));
    wait_until("the later secret to count", || cluster.knock("c", &later).ok());
    let gateway = cluster.worker("gateway");
    kill(gateway, Signal::KILL);
    wait_until("another gateway", || (cluster.worker("gateway") != gateway && cluster.healthy()).then_some(()));
    // The former one, of which the configuration's parser may have left a copy, makes no tokens any more.
    assert_eq!(copies(cluster.worker("gateway"), other.as_bytes()), 0);
}

/// How often bytes occur in the private memory of a process.
fn copies(pid: i32, bytes: &[u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("the right to look at our own server's memory");
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [start, end] = [range.0, range.1].map(|text| u64::from_str_radix(text, 16).expect("an address"));
        let mut content = vec![0; (end - start) as usize];
        if memory.read_at(&mut content, start).is_ok() {
            found += content.windows(bytes.len()).filter(|window| *window == bytes).count();
        }
    }
    found
}
