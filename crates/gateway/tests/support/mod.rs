//! A gateway in this process, and fakes of everything around it: launcher, feeder, query worker, client. They wait
//! for messages, never for a time; a time-out is a failure.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod crowd;
pub mod fallback;

use rte_core::{Held, held};
use rte_protocol::bridge::{
    Attach, ConnectionReport, FromFeeder, FromWorker, GatewayConfig, Report, ReportKind, SandboxMode, SessionId,
    ShapeFrame, ShapeId, Tenant, ToFeeder, ToGateway, ToLauncher, ToWorker, frame,
};
use rte_protocol::wire::{Column, changes_frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// Longer than anything that works takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Gateway {
    pub control: UnixStream,
    pub config: GatewayConfig,
    pub port: u16,
    pub lines: Vec<String>,
    thread: Option<JoinHandle<i32>>,
    dir: PathBuf,
}

pub fn config(bridge_path: String) -> GatewayConfig {
    GatewayConfig {
        server: "whagons_rte test".into(),
        listen_addresses: vec!["127.0.0.1".into()],
        port: 0,
        bridge_path,
        landlord_database: "main".into(),
        io_threads: 2,
        hello_timeout_ms: 5_000,
        tenant_wait_ms: 5_000,
        heartbeat_ms: 20_000,
        stall_timeout_ms: 20_000,
        max_connections: 100,
        max_connections_per_address: 100,
        max_subscriptions: 20,
        max_frame_bytes: 64 * 1024,
        client_queue_bytes: 1 << 20,
        compression_level: 1,
        compression_min_bytes: 1024,
        max_handshakes_per_second: 0,
        max_messages_per_second: 0,
        max_failed_tokens: 0,
        allowed_hosts: vec![],
        sandbox: SandboxMode::Off,
        memory_limit_bytes: 0,
        postgres_socket: String::new(),
        allowed_origins: vec![],
    }
}

impl Gateway {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rte-gw-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        let mut config = config(dir.join("bridge.sock").to_string_lossy().into_owned());
        change(&mut config);
        let (ours, theirs) = UnixStream::pair().expect("pair");
        ours.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let thread = std::thread::spawn({
            let config = config.clone();
            move || rte_gateway::run(theirs, config)
        });
        let mut gateway = Self { control: ours, config, port: 0, lines: vec![], thread: Some(thread), dir };
        loop {
            match read_frame::<ToLauncher>(&mut gateway.control).expect("gateway listens").0 {
                ToLauncher::Listening { addresses } => {
                    let port = addresses[0].rsplit(':').next().and_then(|p| p.parse().ok());
                    gateway.port = port.expect("port");
                    return gateway;
                }
                ToLauncher::Log { message, .. } => gateway.lines.push(message),
                // It would hold for the test, too.
                ToLauncher::Sandboxed { report } => panic!("{report:?}"),
            }
        }
    }

    pub fn order(&mut self, order: &ToGateway) {
        send_frame(&mut self.control, order, &[]);
    }

    /// Waits for the end and answers the exit code.
    pub fn ended(&mut self) -> i32 {
        self.thread.take().expect("thread").join().expect("no panic")
    }

    pub fn feeder(&self) -> Feeder {
        self.feeder_of(1, "main")
    }

    pub fn feeder_of(&self, database: u32, name: &str) -> Feeder {
        let mut stream = self.bridge();
        send_frame(&mut stream, &Attach::Feeder { database, name: name.into(), pid: 1 }, &[]);
        Feeder { stream }
    }

    pub fn worker(&self) -> Worker {
        self.worker_of(1)
    }

    pub fn worker_of(&self, database: u32) -> Worker {
        let mut stream = self.bridge();
        send_frame(&mut stream, &Attach::Worker { database, pid: 2 }, &[]);
        Worker { stream }
    }

    /// What the view of a database shows.
    pub fn report(&self, database: u32) -> Vec<ConnectionReport> {
        let mut stream = self.bridge();
        send_frame(&mut stream, &Attach::Observer { what: ReportKind::Connections, database }, &[]);
        read_frame::<Report>(&mut stream).expect("report").0.connections
    }

    /// A client that has said hello to this tenant.
    pub fn client_of(&self, tenant: &str) -> Client {
        let mut client = self.client();
        client.send(&json!({"type": "hello", "tenant": tenant}));
        client
    }

    pub fn bridge(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.config.bridge_path).expect("bridge");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream
    }

    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    pub fn client(&self) -> Client {
        self.client_at("/ws", &[]).expect("upgrade")
    }

    pub fn client_at(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, tungstenite::Error> {
        self.client_over(self.tcp(), path, headers)
    }

    pub fn client_over(
        &self,
        stream: TcpStream,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, tungstenite::Error> {
        let mut request = format!("ws://127.0.0.1:{}{path}", self.port).into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", "rte.v1".parse().expect("header"));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("header"));
        }
        let (socket, _) = tungstenite::client(request, stream).map_err(|e| match e {
            tungstenite::HandshakeError::Failure(e) => e,
            tungstenite::HandshakeError::Interrupted(_) => tungstenite::Error::ConnectionClosed,
        })?;
        Ok(Client { socket })
    }

    pub fn http(&self, request: &str) -> (u16, String) {
        let mut stream = self.tcp();
        stream.write_all(request.as_bytes()).expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{text:?}"));
        (status, text)
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// A figure of `/stats`.
    pub fn figure(&self, name: &str) -> u64 {
        let (_, text) = self.get("/stats");
        let body = text.split("\r\n\r\n").nth(1).expect("body");
        serde_json::from_str::<Value>(body).expect("json")[name].as_u64().expect("figure")
    }

    pub fn wait_for(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is(self) {
            assert!(start.elapsed() < PATIENCE, "waited for {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn send_frame<T: Serialize>(stream: &mut UnixStream, head: &T, body: &[u8]) {
    let mut out = Vec::new();
    frame::write(&mut out, head, &[body]).expect("frame");
    stream.write_all(&out).expect("send");
}

pub fn read_frame<T: DeserializeOwned>(stream: &mut UnixStream) -> Option<(T, Vec<u8>)> {
    let mut whole = vec![0; 4];
    stream.read_exact(&mut whole).ok()?;
    let len = frame::frame_len(&whole).expect("length").expect("whole prefix");
    whole.resize(len, 0);
    stream.read_exact(&mut whole[4..]).ok()?;
    let (head, body) = frame::read(&whole).expect("head");
    Some((head, whole[body].to_vec()))
}

/// What the fake feeder calls the contents of a subscription.
pub fn digest(bridge_id: &str, shape: ShapeId) -> u64 {
    let id = bridge_id.split_once(':').expect("number").1;
    id.bytes().fold(u64::from(shape), |n, b| n * 256 + u64::from(b))
}

pub struct Feeder {
    pub stream: UnixStream,
}

impl Feeder {
    pub fn send(&mut self, message: &FromFeeder) {
        send_frame(&mut self.stream, message, &[]);
    }

    pub fn next(&mut self) -> ToFeeder {
        read_frame(&mut self.stream).expect("message to the feeder").0
    }

    /// The next message that is not about workers or ticks.
    pub fn next_of_session(&mut self) -> ToFeeder {
        loop {
            match self.next() {
                ToFeeder::NeedTick | ToFeeder::SnapshotTaken { .. } | ToFeeder::NeedWorker { .. } => {}
                message => return message,
            }
        }
    }

    pub fn until(&mut self, wanted: impl Fn(&ToFeeder) -> bool) -> ToFeeder {
        loop {
            let message = self.next();
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Lets the next session in; answers it and the bridge ids of its subscriptions.
    pub fn open(&mut self) -> (SessionId, Vec<String>) {
        let ToFeeder::Open { session, subscriptions, .. } = self.until(|m| matches!(m, ToFeeder::Open { .. })) else {
            unreachable!()
        };
        self.send(&FromFeeder::Opened {
            session,
            role: "web".into(),
            tables: vec![],
            monitor: false,
            expires_in_ms: None,
        });
        (session, subscriptions.into_iter().map(|s| s.id).collect())
    }

    pub fn subscribed(&mut self, session: SessionId, id: &str, shape: ShapeId, resumed: bool) {
        self.send(&FromFeeder::Subscribed {
            session,
            id: id.into(),
            shape,
            table: "public.t".into(),
            key: vec!["k".into()],
            columns: vec![Column { name: "k".into(), type_name: "int4".into(), nullable: false }],
            resumed,
            partial: false,
            digest: Some(digest(id, shape)),
        });
    }

    /// Lets the next session in, which must be of this tenant.
    pub fn open_of(&mut self, tenant: &str) -> SessionId {
        let opened = self.until(|m| matches!(m, ToFeeder::Open { .. }));
        let ToFeeder::Open { session, tenant: told, .. } = opened else { unreachable!() };
        assert_eq!(told, tenant);
        self.send(&FromFeeder::Opened {
            session,
            role: "web".into(),
            tables: vec![],
            monitor: false,
            expires_in_ms: None,
        });
        session
    }

    /// These are all tenants: name, domain, database.
    pub fn tenants(&mut self, tenants: &[(&str, Option<&str>, &str)]) {
        let tenant = |(name, domain, database): &(&str, Option<&str>, &str)| Tenant {
            name: (*name).into(),
            domain: domain.map(Into::into),
            database: (*database).into(),
        };
        self.send(&FromFeeder::Tenants { tenants: tenants.iter().map(tenant).collect() });
    }

    /// The tenant that the next message says to be needed.
    pub fn needed(&mut self) -> String {
        match self.next_of_session() {
            ToFeeder::NeedDatabase { tenant } => tenant,
            other => panic!("{other:?}"),
        }
    }

    pub fn ask(&mut self, job: u64, session: SessionId, question: &[u8]) {
        send_frame(&mut self.stream, &FromFeeder::Ask { job, session }, question);
    }

    pub fn job(&mut self, job: u64, session: SessionId, ids: &[&str]) {
        let ids = ids.iter().map(ToString::to_string).collect();
        send_frame(&mut self.stream, &FromFeeder::Job { job, session, ids, shapes: vec![] }, b"blob");
    }

    /// A job that is shared with others of the same shapes.
    pub fn job_of(&mut self, job: u64, session: SessionId, ids: &[&str], shapes: &[ShapeId]) {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let message = FromFeeder::Job { job, session, ids, shapes: shapes.to_vec() };
        send_frame(&mut self.stream, &message, format!("blob {job}").as_bytes());
    }

    pub fn changes(&mut self, shapes: &[(ShapeId, Value)]) {
        let mut body = Vec::new();
        let mut frames = Vec::new();
        for (shape, changes) in shapes {
            let text = changes_frame(&format!("s{shape}"), changes.to_string().as_bytes());
            let count = changes.as_array().map_or(0, Vec::len);
            frames.push(ShapeFrame { shape: *shape, len: text.len() as u32, changes: count as u32 });
            body.extend(text);
        }
        send_frame(&mut self.stream, &FromFeeder::Changes { frames }, &body);
    }

    pub fn commit(&mut self, xmax: u64) {
        self.send(&FromFeeder::Commit {
            snapshot: format!("{xmax}:{xmax}:"),
            cursor: format!("c{xmax}"),
            time: "2026-01-01T00:00:00Z".into(),
        });
    }

    /// A tick with one insert of `row`.
    pub fn tick(&mut self, xmax: u64, shape: ShapeId, row: i64) {
        self.changes(&[(shape, json!([{"op": "insert", "row": [row]}]))]);
        self.commit(xmax);
    }

    pub fn catch_up(&mut self, sessions: &[SessionId], frames: &[Vec<u8>], cursor: &str, last: bool) {
        let lens = frames.iter().map(|f| f.len() as u32).collect();
        let head = FromFeeder::CatchUp {
            sessions: sessions.to_vec(),
            frames: lens,
            cursor: cursor.into(),
            time: "t".into(),
            last,
        };
        send_frame(&mut self.stream, &head, &frames.concat());
    }
}

pub struct Worker {
    pub stream: UnixStream,
}

impl Worker {
    pub fn send(&mut self, message: &FromWorker) {
        send_frame(&mut self.stream, message, &[]);
    }

    pub fn next(&mut self) -> ToWorker {
        read_frame(&mut self.stream).expect("message to the worker").0
    }

    pub fn take(&mut self) -> u64 {
        match read_frame(&mut self.stream).expect("a job") {
            (ToWorker::Job { job, .. }, blob) => {
                assert_eq!(blob, b"blob");
                job
            }
            (other, _) => panic!("{other:?}"),
        }
    }

    /// The next job and its blob.
    pub fn take_any(&mut self) -> (u64, Vec<u8>) {
        match read_frame(&mut self.stream).expect("a job") {
            (ToWorker::Job { job, .. }, blob) => (job, blob),
            (other, _) => panic!("{other:?}"),
        }
    }

    pub fn answer(&mut self, job: u64, answer: &[u8]) {
        send_frame(&mut self.stream, &FromWorker::Answer { job }, answer);
    }

    /// The next job, and the others that it is for.
    pub fn take_shared(&mut self) -> (u64, Vec<u64>) {
        match read_frame(&mut self.stream).expect("a job") {
            (ToWorker::Job { job, others }, blobs) => {
                let (mut all, mut rest) = (format!("blob {job}").into_bytes(), Vec::new());
                for (other, len) in others {
                    let blob = format!("blob {other}").into_bytes();
                    assert_eq!(blob.len(), len as usize);
                    all.extend(blob);
                    rest.push(other);
                }
                assert_eq!(blobs, all);
                (job, rest)
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn begin_for(&mut self, job: u64, xmax: u64, others: &[u64]) {
        self.send(&FromWorker::Begin { job, snapshot: format!("{xmax}:{xmax}:"), others: others.to_vec() });
    }

    pub fn begin(&mut self, job: u64, xmax: u64) {
        self.send(&FromWorker::Begin { job, snapshot: format!("{xmax}:{xmax}:"), others: vec![] });
    }

    pub fn rows(&mut self, job: u64, index: u32, rows: &Value, done: bool) {
        let count = rows.as_array().map_or(0, Vec::len) as u32;
        let head = FromWorker::Rows { job, index, rows: count, done, total: None, parts: None };
        send_frame(&mut self.stream, &head, rows.to_string().as_bytes());
    }
}

pub struct Client {
    pub socket: WebSocket<TcpStream>,
}

/// What a client sees.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Message(Value),
    Closed(u16),
    Gone,
}

impl Client {
    pub fn send(&mut self, message: &Value) {
        self.text(&message.to_string());
    }

    pub fn text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("send");
    }

    pub fn hello(&mut self, subscriptions: &[&str]) {
        let subscriptions: Vec<Value> = subscriptions.iter().map(|id| json!({"id": id, "table": "t"})).collect();
        self.send(&json!({"type": "hello", "subscriptions": subscriptions}));
    }

    pub fn see(&mut self) -> Seen {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Seen::Message(serde_json::from_str(&text).expect("json")),
                Ok(Message::Close(frame)) => return Seen::Closed(frame.map_or(1005, |f| f.code.into())),
                Ok(_) => {}
                Err(tungstenite::Error::Io(e))
                    if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    panic!("nothing came")
                }
                Err(_) => return Seen::Gone,
            }
        }
    }

    pub fn next(&mut self) -> Value {
        match self.see() {
            Seen::Message(m) => m,
            other => panic!("{other:?}"),
        }
    }

    pub fn expect(&mut self, kind: &str) -> Value {
        let message = self.next();
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// The next message, a commit: its tick's cursor, and what it says to be held.
    pub fn commit(&mut self) -> (String, Held) {
        let commit = self.expect("commit");
        let (cursor, held) = held::split(commit["cursor"].as_str().expect("cursor")).expect("cursor");
        (cursor.to_owned(), held)
    }

    /// The next message is an error of this code, and then the connection is closed so.
    pub fn refused(&mut self, code: &str, close: u16) {
        assert_eq!(self.expect("error")["code"], code);
        assert_eq!(self.closed(), close);
    }

    /// The connection still answers.
    pub fn lives(&mut self) {
        self.send(&json!({"type": "ping"}));
        self.expect("pong");
    }

    /// Drops messages until the connection is closed; answers the code.
    pub fn closed(&mut self) -> u16 {
        loop {
            match self.see() {
                Seen::Message(_) => {}
                Seen::Closed(code) => return code,
                Seen::Gone => return 0,
            }
        }
    }
}

/// A feeder with one client whose only subscription `a` is live on shape 1 at tick 10.
pub fn one_live(gateway: &Gateway) -> (Feeder, Client, SessionId) {
    let mut feeder = gateway.feeder();
    let mut client = gateway.client();
    client.hello(&["a"]);
    let (session, ids) = feeder.open();
    client.expect("welcome");
    feeder.subscribed(session, &ids[0], 1, false);
    client.expect("subscribed");
    feeder.job(1, session, &[&ids[0]]);
    let mut worker = gateway.worker();
    let job = worker.take();
    worker.begin(job, 10);
    worker.rows(job, 0, &json!([]), true);
    worker.send(&FromWorker::End { job });
    feeder.until(|m| *m == ToFeeder::NeedTick);
    feeder.commit(10);
    assert_eq!(client.expect("snapshot")["done"], true);
    client.expect("commit");
    (feeder, client, session)
}
