//! Close codes: they tell a client whether and how to come back (`PROTOCOL.md`, rule 7).

use serde::{Deserialize, Serialize};

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseCode {
    /// 1000: the client asked for it.
    Normal,
    /// 1001: the server stops; come back at once with the cursor.
    GoingAway,
    /// 1012: the server restarts; come back at once with the cursor.
    Restart,
    /// 1013: too busy or not ready; come back with back-off.
    TryAgainLater,
    /// 4400: the client broke the protocol.
    Protocol,
    /// 4401: token missing, wrong or expired; come back with a new one.
    Unauthorized,
    /// 4403: not allowed, and a new token would not help.
    Forbidden,
    /// 4404: no such tenant.
    NoSuchTenant,
    /// 4408: no hello, or no answer to heartbeats, in time; come back at once with the cursor.
    Timeout,
    /// 4409: too slow a consumer; come back with the cursor, nothing is lost.
    SlowConsumer,
    /// 4413: a frame was larger than the limit.
    FrameTooLarge,
    /// 4429: too many connections or requests; come back with back-off.
    TooMany,
}

impl CloseCode {
    /// The number in the close frame.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Restart => 1012,
            Self::TryAgainLater => 1013,
            Self::Protocol => 4400,
            Self::Unauthorized => 4401,
            Self::Forbidden => 4403,
            Self::NoSuchTenant => 4404,
            Self::Timeout => 4408,
            Self::SlowConsumer => 4409,
            Self::FrameTooLarge => 4413,
            Self::TooMany => 4429,
        }
    }
}
