//! The wire contract `rte.v1`: one JSON object per text frame, told apart by `"type"`.

mod client;
mod close;
mod code;
mod number;
mod server;

pub use client::{
    Auth, Channel, ClientInfo, ClientMessage, Have, Hello, Mutate, ParseError, Ping, Publish, Subscription, Verify,
};
pub use close::CloseCode;
pub use code::ErrorCode;
pub use server::{Column, Limits, ServerMessage, TableInfo, changes_frame, commit_parts, repair_parts, snapshot_parts};

/// The `Sec-WebSocket-Protocol` token of this contract.
pub const SUBPROTOCOL: &str = "rte.v1";
