//! As whom a session acts, and for how long: tokens at `hello` and `auth`, questions to the SQL hook, expiry.
//!
//! Decides who is let in, by the token and by Postgres' roles. The gateway is not believed: what it forwards is a token to be
//! verified here, or an answer that a query worker signed for this one question. Inside a tick's transaction, except
//! where it says otherwise. Main thread only.

use super::Feeder;
use super::registry::Refusal;
use super::resume::Resuming;
use super::session::Opening;
use crate::access::role::{self, RoleError};
use crate::access::token::{self, Login, TokenError};
use crate::guc;
use crate::job::{Answer, AnswerLogin, AuthenticateJob, Job, JobClient};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pgrx::pg_sys::{self, Oid};
use rte_core::auth::{AuthError, MAX_TOKEN};
use rte_protocol::bridge::{FromFeeder, JobId, SessionId};
use rte_protocol::wire::{ClientInfo, CloseCode, ErrorCode};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lines about refused clients in a period; the rest is counted. Who sends wrong tokens must not fill the disk.
const LINES: u32 = 20;
const PERIOD: Duration = Duration::from_secs(60);
/// Of what a client calls itself, characters that the SQL hook is told.
const NAME: usize = 256;

/// As whom a session acts.
pub struct Who {
    pub role: Oid,
    /// `request.jwt.claims`: a JSON object.
    pub claims: String,
    /// The tenant that the token names; in a tenant's own database that tenant.
    pub tenant: Option<String>,
    /// The role's name, and whether it is that of sessions without a token.
    pub name: String,
    pub anonymous: bool,
    /// Seconds since the Unix epoch.
    pub expires_at: Option<u64>,
}

impl Who {
    /// How long its token is still good for.
    pub fn expires_in_ms(&self) -> Option<u64> {
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(self.expires_at?))?;
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Who knocks, as the gateway says.
#[derive(Clone)]
pub struct Caller {
    /// Empty in the landlord database.
    pub tenant: String,
    pub client: Option<ClientInfo>,
    pub peer: String,
}

/// What an answer of the SQL hook is for.
enum Purpose {
    Open(Opening),
    Renew,
}

/// A question that is under way.
struct Asked {
    job: JobId,
    nonce: [u8; 16],
    caller: Caller,
    purpose: Purpose,
}

/// The log-ins of a feeder.
#[derive(Default)]
pub struct Logins {
    asked: HashMap<SessionId, Asked>,
    /// Not later than the first expiry of a session.
    next_expiry: Option<u64>,
    lines: u32,
    period: Option<Instant>,
}

/// Why a session is not let in, or not any more.
pub struct NotLetIn {
    close: CloseCode,
    refusal: Refusal,
}

impl NotLetIn {
    fn unauthorized(message: &str, hint: &str) -> Self {
        Self { close: CloseCode::Unauthorized, refusal: Refusal::new(ErrorCode::Unauthorized, message, hint) }
    }

    fn forbidden(message: &str, hint: &str) -> Self {
        Self { close: CloseCode::Forbidden, refusal: Refusal::new(ErrorCode::Forbidden, message, hint) }
    }

    fn of_token(error: TokenError) -> Self {
        let hint = match error {
            TokenError::Token(AuthError::Expired) => "Come back with a fresh one.",
            _ => "The server's log says why.",
        };
        Self::unauthorized(error.for_client(), hint)
    }

    pub(super) fn of_role(error: &RoleError, anonymous: bool) -> Self {
        let hint = "The server's log says what is wrong.";
        match (anonymous, error.is_setup()) {
            (true, _) => Self::forbidden("anonymous access is not set up correctly", hint),
            (false, true) => Self::forbidden("tokens are not set up correctly", hint),
            (false, false) => Self::forbidden("the token's role may not be used here", hint),
        }
    }
}

/// What a look at a token came to.
enum Verdict {
    In(Box<Who>),
    /// The SQL hook has to be asked.
    Ask(String),
}

impl Feeder {
    /// Lets a client in, refuses it, or asks first.
    pub(super) fn log_in(
        &mut self,
        session: SessionId,
        caller: Caller,
        token: Option<String>,
        opening: Opening,
        resuming: &mut Vec<Resuming>,
    ) {
        match self.judge(&caller, token) {
            Ok(Verdict::In(who)) => self.opened(session, *who, caller, opening, resuming),
            Ok(Verdict::Ask(token)) => self.ask(session, caller, token, Purpose::Open(opening)),
            Err(why) => self.turn_away(session, why),
        }
    }

    /// A fresh token of a session that is in.
    pub(super) fn renew(&mut self, session: SessionId, token: String) {
        let Some(caller) = self.sessions.get(&session).map(|s| s.caller.clone()) else { return };
        match self.judge(&caller, Some(token)) {
            Ok(Verdict::In(who)) => self.renewed(session, *who),
            Ok(Verdict::Ask(token)) => self.ask(session, caller, token, Purpose::Renew),
            Err(why) => self.turn_away(session, why),
        }
    }

    /// What a query worker answered.
    pub(super) fn answered(&mut self, session: SessionId, job: JobId, text: &str, resuming: &mut Vec<Resuming>) {
        let Some(asked) = self.take_asked(session, job) else { return };
        let Asked { nonce, caller, purpose, .. } = asked;
        let Some(answer) = self.read_answer(text).filter(|a| a.session == session && a.nonce == nonce) else {
            self.logins.note(&caller, "an answer to the question whose token it is was not made by this database");
            self.turn_away(session, NotLetIn::unauthorized("the token is not accepted", ""));
            return;
        };
        let judged = match answer.login {
            None => Err(NotLetIn::unauthorized("the token is not accepted", "The server's log says why.")),
            Some(login) => self.judge_answer(&caller, login),
        };
        match (judged, purpose) {
            (Ok(who), Purpose::Open(opening)) => self.opened(session, who, caller, opening, resuming),
            (Ok(who), Purpose::Renew) => self.renewed(session, who),
            (Err(why), _) => self.turn_away(session, why),
        }
    }

    /// Nobody could answer.
    pub(super) fn ask_failed(&mut self, session: SessionId, job: JobId) {
        if self.take_asked(session, job).is_some() {
            let refusal =
                Refusal::new(ErrorCode::NotReady, "the token could not be looked up", "Try again in a moment.");
            self.turn_away(session, NotLetIn { close: CloseCode::TryAgainLater, refusal });
        }
    }

    /// Refuses sessions whose token has expired. Needs no transaction; before changes are delivered.
    pub(super) fn expire(&mut self) {
        let now = unix_now();
        if self.logins.next_expiry.is_none_or(|at| now < at) {
            return;
        }
        let over: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.who.expires_at.is_some_and(|at| now >= at))
            .map(|(session, _)| *session)
            .collect();
        for session in over {
            self.turn_away(session, NotLetIn::of_token(AuthError::Expired.into()));
        }
        self.logins.next_expiry = self.sessions.values().filter_map(|s| s.who.expires_at).min();
    }

    /// How long until [`Feeder::expire`] has something to do.
    pub(super) fn until_expiry(&self) -> Option<Duration> {
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(self.logins.next_expiry?))?;
        Some(at.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Forgets a session's question.
    pub(super) fn forget_asked(&mut self, session: SessionId) {
        self.logins.asked.remove(&session);
    }

    /// Notes when a session ends by itself.
    pub(super) fn note_expiry(&mut self, who: &Who) {
        if let Some(at) = who.expires_at {
            self.logins.next_expiry = Some(self.logins.next_expiry.map_or(at, |next| next.min(at)));
        }
    }

    /// Puts a session in its new place.
    fn renewed(&mut self, session: SessionId, who: Who) {
        self.note_expiry(&who);
        let Some(s) = self.sessions.get_mut(&session) else { return };
        let name = who.name.clone();
        s.who = who;
        self.send(&FromFeeder::Renewed { session, role: name }, &[]);
        self.identity_changed(session);
    }

    pub(super) fn turn_away(&mut self, session: SessionId, why: NotLetIn) {
        let Refusal { code, message, hint } = why.refusal;
        self.send(&FromFeeder::Refused { session, close: why.close.code(), code, message, hint }, &[]);
        self.forget(session);
    }

    fn judge(&mut self, caller: &Caller, token: Option<String>) -> Result<Verdict, NotLetIn> {
        let Some(token) = token else {
            return self.judge_anonymous(caller).map(|who| Verdict::In(Box::new(who)));
        };
        if token::hook().is_some() {
            if token.len() > MAX_TOKEN {
                return Err(self.not_accepted(caller, AuthError::TooLong.into()));
            }
            // The function is called as the authenticator, or not at all.
            if let Ok(None) = role::authenticator() {
                self.logins.note(caller, &RoleError::NoAuthenticator.to_string());
                return Err(NotLetIn::of_role(&RoleError::NoAuthenticator, false));
            }
            return Ok(Verdict::Ask(token));
        }
        match token::verify(&token, unix_now()) {
            Ok(login) => self.judge_login(caller, login, true).map(|who| Verdict::In(Box::new(who))),
            Err(error) => Err(self.not_accepted(caller, error)),
        }
    }

    fn judge_anonymous(&mut self, caller: &Caller) -> Result<Who, NotLetIn> {
        let Some(role) = guc::anon_role() else { return Err(anonymous_is_over(false)) };
        let claims = token::anonymous_claims(&role);
        self.judge_login(caller, Login { role, claims, tenant: None, expires_at: None, anonymous: true }, false)
    }

    fn judge_answer(&mut self, caller: &Caller, answer: AnswerLogin) -> Result<Who, NotLetIn> {
        match token::of_hook(answer.role, answer.claims, unix_now()) {
            Ok(login) => self.judge_login(caller, login, true),
            Err(error) => Err(self.not_accepted(caller, error)),
        }
    }

    fn judge_login(&mut self, caller: &Caller, login: Login, with_token: bool) -> Result<Who, NotLetIn> {
        let Login { role: name, claims, tenant, expires_at, anonymous } = login;
        let role = role::resolve(&name, anonymous).map_err(|why| {
            self.logins.note(caller, &why.to_string());
            NotLetIn::of_role(&why, anonymous)
        })?;
        // In the landlord database a tenant is a matter of rows, which subscriptions are limited to.
        let tenant = if caller.tenant.is_empty() {
            tenant
        } else {
            let foreign = match &tenant {
                Some(named) => *named != caller.tenant,
                // Without a token there is no claim to miss.
                None => with_token && guc::require_tenant_claim(),
            };
            if foreign {
                self.logins.note(caller, "its token is not for the tenant whose database it was used in");
                return Err(NotLetIn::forbidden("the token is not for this tenant", ""));
            }
            Some(caller.tenant.clone())
        };
        Ok(Who { role, claims, tenant, name, anonymous, expires_at })
    }

    fn not_accepted(&mut self, caller: &Caller, error: TokenError) -> NotLetIn {
        self.logins.note(caller, &format!("its token is not accepted: {error}"));
        NotLetIn::of_token(error)
    }

    /// Hands a token to a query worker, to be shown to `rte.authenticate_function`.
    fn ask(&mut self, session: SessionId, caller: Caller, token: String, purpose: Purpose) {
        let Some(nonce) = random() else { return };
        self.last_job += 1;
        let job = self.last_job;
        let short = |text: Option<String>| text.map(|text| text.chars().take(NAME).collect());
        let ClientInfo { id, name } = caller.client.clone().unwrap_or_default();
        let question = Job::Authenticate(AuthenticateJob {
            job,
            database: self.database.to_u32(),
            session,
            nonce,
            token,
            tenant: Some(caller.tenant.clone()).filter(|tenant| !tenant.is_empty()),
            client: JobClient { id: short(id), name: short(name), address: caller.peer.clone() },
        });
        let Ok(blob) = serde_json::to_vec(&question) else { return };
        let signed = rte_core::cursor::sign(&self.key, blob);
        // A later question of a session replaces the earlier one, whose answer is ignored then.
        self.logins.asked.insert(session, Asked { job, nonce, caller, purpose });
        self.send(&FromFeeder::Ask { job, session }, &[&signed]);
        self.have_a_worker();
    }

    fn take_asked(&mut self, session: SessionId, job: JobId) -> Option<Asked> {
        self.logins.asked.get(&session).filter(|asked| asked.job == job)?;
        self.logins.asked.remove(&session)
    }

    fn read_answer(&self, text: &str) -> Option<Answer> {
        let signed = STANDARD.decode(text).ok()?;
        serde_json::from_slice(rte_core::cursor::verify(&self.key, &signed).ok()?).ok()
    }
}

impl Logins {
    /// Forgets everything that depended on the connection to the gateway.
    pub fn clear(&mut self) {
        self.asked.clear();
        self.next_expiry = None;
    }

    /// A line of the log about a client that is not let in.
    fn note(&mut self, caller: &Caller, why: &str) {
        let now = Instant::now();
        if self.period.is_none_or(|began| now >= began + PERIOD) {
            if self.lines > LINES {
                pgrx::log!("whagons_rte: {} further log-ins were refused", self.lines - LINES);
            }
            self.period = Some(now);
            self.lines = 0;
        }
        self.lines += 1;
        if self.lines <= LINES {
            let peer: String = caller.peer.chars().take(NAME).flat_map(char::escape_debug).collect();
            pgrx::log!("whagons_rte: a client at {peer} is not let in: {why}");
        }
    }
}

pub(super) fn anonymous_is_over(set: bool) -> NotLetIn {
    if set {
        return role_has_changed();
    }
    NotLetIn::unauthorized("a token is needed", "Anonymous access is off; an administrator can set rte.anon_role.")
}

pub(super) fn role_has_changed() -> NotLetIn {
    let refusal = Refusal::new(ErrorCode::Forbidden, "the session's role has changed", "");
    NotLetIn { close: CloseCode::Restart, refusal }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn random() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: fills the array.
    unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) }.then_some(bytes)
}
