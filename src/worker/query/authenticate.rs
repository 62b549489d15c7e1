//! Shows a token to `rte.authenticate_function` and signs what it says.
//!
//! The function is called as the authenticator, in a transaction of its own that may write. Its name is a superuser's
//! setting and becomes SQL as the catalogs have it; token, tenant and client are parameters. What it raises may quote the
//! token, so of that only the error's code is logged. Main thread.

use super::failure::Failure;
use super::{Outcome, abort, wait};
use crate::guc;
use crate::job::{Answer, AnswerLogin, AuthenticateJob};
use crate::worker::process;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::{JsonB, Spi, pg_sys};
use rte_core::cursor;
use rte_protocol::wire::ErrorCode;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;

/// Largest claims, bytes: they go along with every query of the session.
const MAX_CLAIMS: usize = 64 * 1024;

/// The function as a query, where it exists and may be called.
const LOOK_UP: &str = "
    SELECT pg_catalog.format(
               'SELECT f.role::pg_catalog.text, f.claims::pg_catalog.text FROM %I.%I($1, $2, $3) AS f',
               n.nspname, p.proname),
           pg_catalog.has_function_privilege(p.oid, 'EXECUTE') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE p.oid = pg_catalog.to_regprocedure($1)";

/// How far a look-up came, for what may be said about an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Errors are about the setting.
    Find,
    /// Errors are the function's.
    Call,
}

/// Asks the function; the answer is signed with the database's key.
#[allow(clippy::result_large_err, reason = "pgrx's type of error")]
pub(super) fn run(work: &AuthenticateJob, key: &[u8]) -> Outcome {
    wait::report_running(c"whagons_rte: authenticate");
    let step = Cell::new(Step::Find);
    let asked = PgTryBuilder::new(AssertUnwindSafe(|| Ok(process::transaction(|_| ask(work, &step)))))
        .catch_others(Err)
        .execute();
    let login = match asked {
        Ok(login) => login,
        Err(error) => {
            abort();
            if let Some(failure) = failed(&error, step.get()) {
                return Outcome::Failed(failure);
            }
            None
        }
    };
    let answer = Answer { session: work.session, nonce: work.nonce, login };
    Outcome::Answered(cursor::sign(key, serde_json::to_vec(&answer).unwrap_or_default()))
}

fn ask(work: &AuthenticateJob, step: &Cell<Step>) -> Option<AnswerLogin> {
    let setting = guc::authenticate_function()?;
    let signature = if setting.contains('(') { setting.clone() } else { format!("{setting}(text,text,jsonb)") };
    let rows = Spi::connect_mut(|client| {
        let found = client.select(LOOK_UP, Some(1), &[signature.as_str().into()])?;
        if found.is_empty() {
            pgrx::warning!("whagons_rte: there is no function {signature} for rte.authenticate_function");
            return Ok(Vec::new());
        }
        let (call, allowed) = found.first().get_two::<String, bool>()?;
        let Some(call) = call.filter(|_| allowed == Some(true)) else {
            pgrx::warning!("whagons_rte: rte.authenticator_role may not call {signature} (rte.authenticate_function)");
            return Ok(Vec::new());
        };
        let types = [pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::JSONBOID].map(pgrx::PgOid::from);
        let call = client.prepare_mut(call.as_str(), &types)?;
        step.set(Step::Call);
        let known = serde_json::json!({
            "id": work.client.id, "name": work.client.name, "address": work.client.address,
        });
        let arguments = [work.token.as_str().into(), work.tenant.as_deref().into(), JsonB(known).into()];
        let rows = client.update(call, Some(2), &arguments)?;
        rows.map(|row| Ok((row.get::<String>(1)?, row.get::<String>(2)?))).collect::<spi::Result<Vec<_>>>()
    });
    let rows = rows.unwrap_or_else(|error| {
        pgrx::warning!("whagons_rte: the result of {signature} (rte.authenticate_function) cannot be read: {error}");
        Vec::new()
    });
    let mut rows = rows.into_iter();
    match (rows.next(), rows.next()) {
        (Some((Some(role), claims)), None) => {
            let claims = claims.unwrap_or_else(|| "{}".to_owned());
            if claims.len() > MAX_CLAIMS {
                pgrx::warning!(
                    "whagons_rte: {signature} (rte.authenticate_function) gave claims of over {MAX_CLAIMS} bytes"
                );
                return None;
            }
            Some(AnswerLogin { role, claims })
        }
        (Some(_), Some(_)) => {
            pgrx::warning!("whagons_rte: {signature} (rte.authenticate_function) gave more than one row");
            None
        }
        // Not known, says the function.
        _ => None,
    }
}

/// What an error means for the client: nothing where the token is to blame, else that it may come back.
fn failed(error: &CaughtError, step: Step) -> Option<Failure> {
    let report = crate::attempt::report(error);
    let code = report.sql_error_code();
    let state = crate::attempt::sqlstate(code);
    match step {
        Step::Find => {
            pgrx::warning!("whagons_rte: rte.authenticate_function cannot be called: {}", report.message());
        }
        Step::Call => pgrx::log!("whagons_rte: rte.authenticate_function raised error {state}"),
    }
    // Out of something, canceled, in conflict with others: it may go well another time.
    matches!(&state[..2], "08" | "40" | "53" | "55" | "57" | "58" | "XX").then_some(Failure {
        code: ErrorCode::NotReady,
        message: "the token could not be looked up",
        hint: Some("try again in a moment"),
    })
}
