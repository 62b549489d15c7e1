//! Values of parameters and literals: from JSON or text to a constant of the type that its use asks for, by that
//! type's input function. Main thread only, in a transaction, in `failure::guarded`.

use super::{names, types};
use crate::compat;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgrx::pg_sys::{self, Node, Oid};
use serde_json::Value as Json;
use std::ffi::CString;

/// A value that the client gave.
pub(super) enum Value<'a> {
    /// NULL, also for JSON's.
    Null,
    Json {
        value: &'a Json,
        text: String,
    },
    /// As the input function of its type reads it.
    Text(&'a str),
}

/// Why a value cannot be that of a type, in words that go on after "parameter $1".
pub(super) type Unfit = String;

impl<'a> Value<'a> {
    pub(super) fn of(value: Option<&'a Json>) -> Self {
        match value {
            None | Some(Json::Null) => Self::Null,
            Some(value) => Self::Json { value, text: value.to_string() },
        }
    }

    /// Bytes, about as they came.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Null => 4,
            Self::Json { text, .. } => text.len(),
            Self::Text(text) => text.len(),
        }
    }

    /// The constant of this value and a type.
    ///
    /// # Errors
    /// Why the value cannot be of the type; the type's input function raises errors of its own.
    pub(super) fn bind(&self, type_oid: Oid, collation: Oid) -> Result<*mut Node, Unfit> {
        let text = match self {
            Self::Null => None,
            Self::Text(text) => Some((*text).to_owned()),
            Self::Json { value, text } => Some(input_text(value, text, type_oid)?),
        };
        let text = text.map(CString::new).transpose().map_err(|_| "has a NUL character in it".to_owned())?;
        // SAFETY: in a transaction.
        let text = text.map(|text| unsafe { compat::server_text(&text) });
        constant(text, type_oid, collation)
    }
}

/// The constant of a text (in the database's encoding; none is NULL) and a type.
///
/// # Errors
/// Why the text may not be read as that type.
pub(super) fn constant(text: Option<CString>, type_oid: Oid, collation: Oid) -> Result<*mut Node, Unfit> {
    let type_oid = if type_oid == pg_sys::UNKNOWNOID { pg_sys::TEXTOID } else { type_oid };
    // A domain's checks are a user's code.
    // SAFETY: a catalog look-up.
    if !types::allowed(type_oid) || unsafe { pg_sys::getBaseType(type_oid) } != type_oid {
        return Err("is used as a type that where may not use".to_owned());
    }
    if let Some(text) = &text {
        fits(&text.to_string_lossy(), types::inside_range(types::innermost(type_oid)))?;
    }
    // SAFETY: the input function of an allowed type; the text is a C string of this process.
    unsafe {
        let (mut function, mut parameter, mut len, mut by_value) = (Oid::INVALID, Oid::INVALID, 0, false);
        pg_sys::getTypeInputInfo(type_oid, &raw mut function, &raw mut parameter);
        pg_sys::get_typlenbyval(type_oid, &raw mut len, &raw mut by_value);
        let datum = match &text {
            Some(text) => pg_sys::OidInputFunctionCall(function, text.as_ptr().cast_mut(), parameter, -1),
            None => pg_sys::Datum::from(0),
        };
        Ok(pg_sys::makeConst(type_oid, -1, collation, len.into(), datum, text.is_none(), by_value).cast())
    }
}

/// What Postgres would read and a condition may not say, by the innermost type.
fn fits(text: &str, type_oid: Oid) -> Result<(), Unfit> {
    match type_oid {
        pg_sys::DATEOID | pg_sys::TIMEOID | pg_sys::TIMETZOID | pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID
            if !names::is_plain_date(text) =>
        {
            Err("is no date or time in plain form: \"now\" and its like and names of time zones are not understood"
                .to_owned())
        }
        pg_sys::NUMERICOID if !names::has_modest_numbers(text) => Err("has too many digits".to_owned()),
        pg_sys::JSONOID | pg_sys::JSONBOID if serde_json::from_str::<Json>(text).is_err() => {
            // Arrays of JSON have Postgres' own quoting around each.
            if text.starts_with('{') && names::has_modest_numbers(text) {
                Ok(())
            } else {
                Err("is no JSON, or has a number in it that is too large".to_owned())
            }
        }
        _ => Ok(()),
    }
}

/// The text that the input function of the type reads a JSON value from. `text`: the value's own.
fn input_text(value: &Json, text: &str, type_oid: Oid) -> Result<String, Unfit> {
    // SAFETY: a catalog look-up.
    let element = unsafe { pg_sys::get_element_type(type_oid) };
    if element != Oid::INVALID {
        return match value {
            Json::Array(values) => array_text(values, element),
            Json::String(text) => Ok(text.clone()),
            _ => Err(format!("is used as {}, so it must be a JSON array", types::describe(type_oid))),
        };
    }
    match (type_oid, value) {
        (pg_sys::JSONOID | pg_sys::JSONBOID, _) => Ok(text.to_owned()),
        (pg_sys::BYTEAOID, Json::String(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(bytes.iter().fold("\\x".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))),
            Err(_) => Err("is used as bytea, so it must be base64".to_owned()),
        },
        (_, Json::String(text)) => Ok(text.clone()),
        (_, Json::Bool(value)) => Ok(value.to_string()),
        // The contract's reader lets through no number that is not what it was written as.
        (_, Json::Number(_)) => Ok(text.to_owned()),
        _ => Err(format!("is used as {}, so it may be no JSON array or object", types::describe(type_oid))),
    }
}

/// A Postgres array literal, every element quoted.
fn array_text(values: &[Json], element: Oid) -> Result<String, Unfit> {
    let of_json = matches!(element, pg_sys::JSONOID | pg_sys::JSONBOID);
    let mut out = String::from("{");
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        match value {
            Json::Null => out.push_str("NULL"),
            Json::Array(values) if !of_json => out.push_str(&array_text(values, element)?),
            value => {
                out.push('"');
                for c in input_text(value, &value.to_string(), element)?.chars() {
                    if matches!(c, '"' | '\\') {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out.push('"');
            }
        }
    }
    out.push('}');
    Ok(out)
}
