//! What the NSS module and the gateway say to each other over a unix socket.
//!
//! # What it is for
//!
//! The module is loaded into every program that looks up a user, so it does nothing but ask. The gateway, a process of its
//! own, asks the replicas, checks heads and proofs, and says one of three things: here it is, it is proved that there is
//! none, or nobody can say.
//!
//! ```text
//! request = "quorate-nss/1 " ("passwd" | "group") " " ("name " NAME | "id " NUMBER | "list " NUMBER) LF
//! answer  = "found " COUNT LF COUNT * (LINE LF)      LINE as in passwd(5) or group(5)
//!         | "absent" LF
//!         | "unavailable " REASON LF
//! ```
//!
//! A connection carries requests one after the other; nothing follows an answer but the next one. A lookup finds one line.
//! `list N` finds the lines of the lowest ids from `N` on, ascending, 1 to 256 of them; the next request names the last id
//! plus one, and `absent` is the proved end.
//!
//! # Rules
//!
//! Everything is UTF-8 without control characters, numbers are canonical decimals, lengths are bounded before anything is
//! kept. [`Answer::decode`] knows the request and refuses an answer to another one: another name or id, a list that goes
//! back, more than one line for a lookup.
//!
//! # What it does not promise
//!
//! Neither side proves anything to the other: who may connect to, and who listens at, the socket is decided by the
//! permissions of the folder it lies in. Parts of a list may come from different states; each is complete by itself.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic))]

mod answer;
mod request;

pub use answer::{ANSWER_LIMIT, Answer, Found, Group, LINE_LIMIT, LINES_LIMIT, Passwd, REASON_LIMIT};
pub use request::{Database, NAME_LIMIT, Query, REQUEST_LIMIT, Request};

/// Where the gateway listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/quorate/nss.sock";

/// Bytes that are no request, or no answer to the one that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// More bytes than allowed.
    TooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// The bytes break a rule.
    Malformed(&'static str),
    /// A well-formed answer to another request.
    OtherRequest,
}

impl ProtocolError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "MessageTooLarge",
            Self::Malformed(_) => "DecodeError",
            Self::OtherRequest => "NonceReused",
        }
    }
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { limit } => write!(out, "message is over {limit} bytes"),
            Self::Malformed(reason) => write!(out, "message is malformed: {reason}"),
            Self::OtherRequest => out.write_str("the answer is to another request"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// One line without its end, of at most `limit` bytes with it.
fn line(bytes: &[u8], limit: usize) -> Result<&str, ProtocolError> {
    if bytes.len() > limit {
        return Err(ProtocolError::TooLarge { limit });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ProtocolError::Malformed("not UTF-8"))?;
    let text = text.strip_suffix('\n').ok_or(ProtocolError::Malformed("no end of line"))?;
    if text.chars().any(char::is_control) {
        return Err(ProtocolError::Malformed("control character"));
    }
    Ok(text)
}

/// A number as it is written here: no sign, no leading zero.
fn number(text: &str) -> Result<u32, ProtocolError> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    let parsed = text.parse().ok().filter(|_| canonical);
    parsed.ok_or(ProtocolError::Malformed("not a canonical number"))
}

#[cfg(test)]
mod tests;
