//! Why a client's request is refused, in the words that it may read. Leaf, pure.

use rte_protocol::wire::ErrorCode;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    pub hint: Option<String>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: &str) -> Self {
        Self { code, message: message.into(), hint: (!hint.is_empty()).then(|| hint.to_owned()) }
    }
}
