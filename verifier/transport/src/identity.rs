//! A node's own key: it signs the TLS handshake and the application hello.

use std::fmt;
use std::sync::Arc;

use quorate_attest::key::{PublicKey, SecretKey, Signature};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::directory::Role;

/// DER of an RFC 8410 SubjectPublicKeyInfo up to the 32 key bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The SubjectPublicKeyInfo of a node key, which is its whole "certificate" (RFC 7250).
pub(crate) fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// The node key of a SubjectPublicKeyInfo; `None` unless it is exactly one canonical Ed25519 key.
pub(crate) fn key_of_spki(spki: &[u8]) -> Option<PublicKey> {
    let bytes: [u8; 32] = spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?;
    PublicKey::from_bytes(bytes).ok()
}

/// Our key and what we are. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Identity {
    secret: Arc<SecretKey>,
    public: PublicKey,
    role: Role,
}

impl Identity {
    pub(crate) fn new(secret: &SecretKey, role: Role) -> Self {
        Self { secret: Arc::new(secret.clone()), public: secret.public(), role }
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        self.secret.sign(message)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).field("role", &self.role).finish()
    }
}

// Signing through our own key type keeps the seed in the one place that erases it.
impl SigningKey for Identity {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(spki(&self.public)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Identity {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(Identity::sign(self, message).as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
