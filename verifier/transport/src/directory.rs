//! Who is who: the membership as the transport needs it.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::key::PublicKey;

/// What a node is in the cluster. A key has one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Role {
    /// A host agent.
    Host = 1,
    /// A verifier.
    Verifier = 2,
    /// An orchestrator replica.
    Orchestrator = 3,
    /// The operator's tool.
    Operator = 4,
    /// Anyone who sends requests.
    Client = 5,
}

/// Decides which keys may connect, and as what. Asked in each handshake, so a change takes effect on the next
/// connection; to end the present ones of a key use [`crate::Endpoint::disconnect`].
pub trait Directory: Send + Sync + 'static {
    /// The role of a key; `None` refuses it inside the TLS handshake (`PeerUnknown`).
    fn role(&self, key: &PublicKey) -> Option<Role>;

    /// Whether the key was revoked, which is asked first (`PeerRevoked`).
    fn is_revoked(&self, key: &PublicKey) -> bool {
        let _ = key;
        false
    }
}

/// A fixed membership.
///
/// # Example
/// ```
/// use quorate_attest::key::SecretKey;
/// use quorate_transport::{Directory, Members, Role};
///
/// let host = SecretKey::from_seed([1; 32]).public();
/// let stranger = SecretKey::from_seed([2; 32]).public();
/// let members = Members::new().with(host, Role::Host);
/// assert_eq!(members.role(&host), Some(Role::Host));
/// assert_eq!(members.role(&stranger), None);
/// assert_eq!(members.with_any_client().role(&stranger), Some(Role::Client));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Members {
    roles: BTreeMap<PublicKey, Role>,
    any_client: bool,
}

impl Members {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, key: PublicKey, role: Role) -> Self {
        self.roles.insert(key, role);
        self
    }

    /// Accepts every other key as a client.
    #[must_use]
    pub fn with_any_client(mut self) -> Self {
        self.any_client = true;
        self
    }
}

impl Directory for Members {
    fn role(&self, key: &PublicKey) -> Option<Role> {
        let listed = self.roles.get(key).copied();
        listed.or(self.any_client.then_some(Role::Client))
    }
}
