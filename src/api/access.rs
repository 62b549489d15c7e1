//! How a role's access to a table is decided, for administrators.

use crate::access::filter::Filter;
use crate::access::identity::Identity;
use crate::access::{self, Path, expression, node, role, token};
use crate::compat;
use pgrx::iter::TableIterator;
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::ffi::CStr;

/// The path that access takes (`every row`, `folded`, `asked`), the folded predicate, the column that it is looked up by, and why it
/// does not fold.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the function")]
fn rte_explain_access(
    relation: Oid,
    role_name: &str,
    claims: &str,
    tenant_column: Option<i16>,
) -> TableIterator<
    'static,
    (
        name!(path, String),
        name!(predicate, Option<String>),
        name!(index_column, Option<String>),
        name!(reason, Option<String>),
    ),
> {
    let role = role::find(role_name).unwrap_or_else(|| {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("role \"{role_name}\" does not exist"));
    });
    let session_user = role::authenticator().ok().flatten().map_or(0, |oid| oid.to_u32());
    let search_path = crate::guc::usual_search_path();
    let identity = Identity { session_user, role: role.to_u32(), claims: claims.to_owned(), search_path };
    let tenant = tenant_column.map(|column| {
        let login = token::of_hook(role_name.to_owned(), claims.to_owned(), 0);
        let Some(tenant) = login.ok().and_then(|login| login.tenant) else {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "the claims name no tenant, and the table is divided by tenants",
                "rte.jwt_tenant_claim says where in the claims it stands."
            );
        };
        expression::equals(relation, column, &tenant).map_or_else(
            |refusal| {
                ereport!(ERROR, PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION, refusal.message);
            },
            |condition| condition.text,
        )
    });
    // SAFETY: a catalog look-up.
    let kind = unsafe { pg_sys::get_rel_relkind(relation) } as u8;
    let row = match access::path(&identity, relation, kind, tenant.as_deref(), None) {
        Err(error) => error.rethrow(),
        Ok(Path::Asked { why, always }) => {
            let again = if always { "; asked again at every tick, and when time passes" } else { "" };
            ("asked".to_owned(), None, None, Some(format!("{why}{again}")))
        }
        Ok(Path::Folded(predicate)) if predicate.is_empty() => ("every row".to_owned(), None, None, None),
        Ok(Path::Folded(predicate)) => {
            // SAFETY: the relation is opened and closed here; the predicate was made for it.
            let (text, index) = unsafe {
                let rel = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
                let acting = identity.act();
                let filter = Filter::new(&predicate, (*rel).rd_att);
                acting.end();
                let index = filter
                    .index
                    .as_ref()
                    .map(|(column, _)| compat::name(&compat::attribute((*rel).rd_att, *column as usize - 1).attname));
                let context = pg_sys::deparse_context_for((*(*rel).rd_rel).relname.data.as_ptr(), relation);
                let all = pg_sys::make_ands_explicit(node::parse(&predicate.access).cast());
                let text = pg_sys::deparse_expression(all.cast(), context, false, false);
                pg_sys::relation_close(rel, pg_sys::AccessShareLock as i32);
                (CStr::from_ptr(text).to_string_lossy().into_owned(), index)
            };
            ("folded".to_owned(), Some(text), index, None)
        }
    };
    TableIterator::once(row)
}
