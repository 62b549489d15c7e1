//! The messages of whagons_rte, and nothing else.
//!
//! [`wire`] is what travels between browser and gateway (`rte.v1`, described for users in
//! `docs/PROTOCOL.md`); [`bridge`] is what travels between the gateway and the Postgres workers over a
//! Unix socket. This crate decides nothing: it has no I/O, no clock and no Postgres. Pure, any thread.

pub mod bridge;
pub mod wire;
