//! Codes of `error` messages: stable, upper snake case. Clients may match on them; texts may change.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The `code` of an `error` message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl ErrorCode {
            /// Every code, for documentation and its test.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The text on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The frame is not a JSON object with a `type`, or a field is missing or of the wrong kind.
    BadMessage = "BAD_MESSAGE",
    /// The `type` is not one of the contract's.
    UnknownType = "UNKNOWN_TYPE",
    /// A binary frame; the contract is text only.
    BinaryFrame = "BINARY_FRAME",
    /// The first message was not `hello`, or a second `hello` came.
    UnexpectedMessage = "UNEXPECTED_MESSAGE",
    /// The contract names it, this server does not do it yet.
    NotSupported = "NOT_SUPPORTED",
    /// A token is missing or not accepted.
    Unauthorized = "UNAUTHORIZED",
    /// The role may not do that.
    Forbidden = "FORBIDDEN",
    /// No such tenant.
    UnknownTenant = "UNKNOWN_TENANT",
    /// No such table, or it is not registered, or the role may not read it: not told apart on purpose.
    UnknownTable = "UNKNOWN_TABLE",
    /// No such column, or it is not registered, or the role may not read it.
    UnknownColumn = "UNKNOWN_COLUMN",
    /// `where` does not parse, or uses what it may not.
    InvalidWhere = "INVALID_WHERE",
    /// `params` do not fit the parameters of `where`.
    InvalidParams = "INVALID_PARAMS",
    /// `where` raised an error on a row that the role may read.
    WhereFailed = "WHERE_FAILED",
    /// The row-level security of the table cannot be evaluated for this session.
    PolicyFailed = "POLICY_FAILED",
    /// The table's policies have to be asked of the database, and it has more rows than `rte.max_asked_rows`.
    PolicyTooCostly = "POLICY_TOO_COSTLY",
    /// The subscription's id is in use in this connection.
    DuplicateSubscription = "DUPLICATE_SUBSCRIPTION",
    /// The connection has no subscription of this id.
    UnknownSubscription = "UNKNOWN_SUBSCRIPTION",
    /// The connection has as many subscriptions as `rte.max_subscriptions` allows.
    TooManySubscriptions = "TOO_MANY_SUBSCRIPTIONS",
    /// The cursor was not made by this database, or was altered.
    InvalidCursor = "INVALID_CURSOR",
    /// The capture trigger of the table is missing or disabled, so its changes cannot be followed.
    CaptureDisabled = "CAPTURE_DISABLED",
    /// The database's workers are not running (yet).
    NotReady = "NOT_READY",
    /// The tenant's database is not there yet, or no worker is free for it.
    TenantNotReady = "TENANT_NOT_READY",
    /// Too many messages, or too many failed tokens from this address.
    TooManyRequests = "TOO_MANY_REQUESTS",
    /// Too many connections, or too many from this address.
    TooManyConnections = "TOO_MANY_CONNECTIONS",
    /// The connection's outgoing queue is past `rte.client_queue_size`.
    SlowConsumer = "SLOW_CONSUMER",
    /// A snapshot could not be read to its end.
    SnapshotFailed = "SNAPSHOT_FAILED",
    /// A fault of ours; the server's log says more.
    Internal = "INTERNAL",
}
