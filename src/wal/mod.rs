//! Capture from the WAL: Postgres' logical decoding, in the feeder's own process.
#![allow(dead_code, reason = "the interface of the decoder, which is being built")]

/// Name of the output plugin, which is this library.
pub const PLUGIN: &str = "whagons_rte";

/// Lets this process create slots with our plugin and read them. Others are refused by the plugin.
pub fn allow_here() {}

/// Name of the slot of a database.
pub fn slot_name(database: pgrx::pg_sys::Oid) -> String {
    format!("whagons_rte_{}", database.to_u32())
}
