//! Attacks and guarantees over real sockets on the loopback interface.

mod bulk;
mod exchange;
mod flood;
mod handshake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::key::SecretKey;

use crate::{Connection, Endpoint, Limits, Members, Role, wire_enum};

#[derive(Debug, Clone, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Ask {
    pub(crate) number: u64,
}

#[derive(Debug, Clone, PartialEq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const BLOB_LIMIT: usize = 4 + (1 << 20);

wire_enum! {
    /// Messages of the tests.
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) enum Talk {
        /// A number.
        1 => Ask(Ask) <= 8,
        /// Bytes.
        2 => Blob(Blob) <= BLOB_LIMIT,
    }
}

pub(crate) const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// Keys 1 and 2 are hosts, 3 and 4 verifiers.
pub(crate) fn members() -> Members {
    let hosts = [1, 2].map(|n| (n, Role::Host));
    let verifiers = [3, 4].map(|n| (n, Role::Verifier));
    let all = hosts.into_iter().chain(verifiers);
    all.fold(Members::new(), |members, (n, role)| members.with(key(n).public(), role))
}

/// Limits short enough for a test to reach them.
pub(crate) fn limits() -> Limits {
    Limits {
        handshake: Duration::from_secs(2),
        idle: Duration::from_secs(3),
        patience: Duration::from_secs(5),
        frame_grace: Duration::from_millis(700),
        ..Limits::default()
    }
}

pub(crate) fn node(n: u8, limits: Limits) -> Endpoint {
    Endpoint::bind(LOCAL, &key(n), Arc::new(members()), limits).unwrap()
}

/// Endpoints of host 1 and verifier 3 and their connection, seen from both sides.
pub(crate) struct Pair {
    pub(crate) host: Endpoint,
    pub(crate) verifier: Endpoint,
    pub(crate) dialled: Connection,
    pub(crate) accepted: Connection,
}

pub(crate) async fn pair(limits: Limits) -> Pair {
    let (host, verifier) = (node(1, limits.clone()), node(3, limits));
    let addr = verifier.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(host.connect(addr, verifier.public()), verifier.accept());
    Pair { dialled: dialled.unwrap(), accepted: accepted.unwrap(), host, verifier }
}

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until `condition` holds.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "it did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
