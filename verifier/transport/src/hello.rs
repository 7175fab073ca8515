//! The application hello: who speaks in which version, bound to this one TLS session. Pure; the QUIC and the bulk
//! transports only carry its three messages.

use std::collections::{HashSet, VecDeque};

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::to_bytes;
use quorate_attest::key::{PublicKey, Signature};

use crate::directory::Role;
use crate::error::TransportError;
use crate::identity::Identity;
use crate::limits::Versions;
use crate::wire_enum;

/// Label of the TLS exporter (RFC 8446, 7.5).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-quorate-session-v1";
/// First field of what is signed; nothing else in the system signs bytes that begin so.
const DOMAIN: [u8; 32] = *b"quorate-session-v1\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// The purpose of connections that carry messages. Bulk connections have the token of their migration.
pub(crate) const MESSAGES: [u8; 32] = [0; 32];
/// Most bytes of any hello message.
const LIMIT: usize = 256;

/// First message of the dialler.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Hello {
    pub(crate) versions: Versions,
    pub(crate) role: Role,
    pub(crate) purpose: [u8; 32],
    pub(crate) nonce: [u8; 16],
}

/// What the accepter chose, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Choice {
    pub(crate) version: u16,
    pub(crate) versions: Versions,
    pub(crate) role: Role,
    pub(crate) nonce: [u8; 16],
}

/// Second message: the choice and the accepter's signature over the transcript.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Answer {
    pub(crate) choice: Choice,
    pub(crate) signature: Signature,
}

/// Third message: the dialler's signature over the transcript.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Confirm {
    pub(crate) signature: Signature,
}

wire_enum! {
    /// Messages of the first stream.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) enum HelloMessage {
        /// Dialler's offer.
        1 => Hello(Hello) <= LIMIT,
        /// Accepter's answer.
        2 => Answer(Answer) <= LIMIT,
        /// Dialler's signature.
        3 => Confirm(Confirm) <= LIMIT,
    }
}

/// Everything both sides agreed on. Each signs it with its own side byte.
#[derive(BorshSerialize)]
struct Transcript<'a> {
    domain: [u8; 32],
    side: u8,
    exporter: [u8; 32],
    dialler: [u8; 32],
    accepter: [u8; 32],
    hello: &'a Hello,
    choice: &'a Choice,
}

const DIALLER: u8 = 0;
const ACCEPTER: u8 = 1;

/// The TLS session the hello runs in, as one side sees it.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    /// Value only the two ends of this TLS session can compute.
    pub(crate) exporter: [u8; 32],
    /// Key the peer proved in the TLS handshake.
    pub(crate) peer: PublicKey,
    /// Role our directory gives that key.
    pub(crate) expected_role: Role,
}

/// Outcome of a hello.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) peer: PublicKey,
    pub(crate) role: Role,
    pub(crate) version: u16,
    pub(crate) purpose: [u8; 32],
}

/// The dialling side between its first and third message.
pub(crate) struct Dialler {
    channel: Channel,
    hello: Hello,
}

impl Dialler {
    /// Effects: none. Returns the first message.
    pub(crate) fn start(
        us: &Identity,
        versions: Versions,
        channel: Channel,
        purpose: [u8; 32],
        nonce: [u8; 16],
    ) -> (Self, Hello) {
        let hello = Hello { versions, role: us.role(), purpose, nonce };
        (Self { channel, hello: hello.clone() }, hello)
    }

    /// Checks the answer and signs.
    pub(crate) fn answered(
        self,
        us: &Identity,
        answer: &Answer,
    ) -> Result<(Session, Confirm), TransportError> {
        let Self { channel, hello } = self;
        let choice = &answer.choice;
        if choice.nonce == hello.nonce {
            return Err(TransportError::NonceReused);
        }
        if hello.versions.choose(choice.versions)? != choice.version {
            return Err(TransportError::SessionBindingMismatch { what: "chosen version" });
        }
        check_role(channel.expected_role, choice.role)?;
        let transcript = |side| Transcript {
            domain: DOMAIN,
            side,
            exporter: channel.exporter,
            dialler: *us.public().as_bytes(),
            accepter: *channel.peer.as_bytes(),
            hello: &hello,
            choice,
        };
        check_signature(&channel.peer, &transcript(ACCEPTER), &answer.signature)?;
        let confirm = Confirm { signature: us.sign(&to_bytes(&transcript(DIALLER))) };
        let session = Session {
            peer: channel.peer,
            role: choice.role,
            version: choice.version,
            purpose: hello.purpose,
        };
        Ok((session, confirm))
    }
}

/// The accepting side between its answer and the dialler's signature.
pub(crate) struct Accepter {
    channel: Channel,
    hello: Hello,
    choice: Choice,
}

impl Accepter {
    /// Checks the first message and answers it. On failure the nonce is still remembered.
    pub(crate) fn greeted(
        us: &Identity,
        versions: Versions,
        channel: Channel,
        hello: Hello,
        nonce: [u8; 16],
        seen: &mut NonceMemory,
    ) -> Result<(Self, Answer), TransportError> {
        if !seen.insert(channel.peer.as_bytes(), hello.nonce) || nonce == hello.nonce {
            return Err(TransportError::NonceReused);
        }
        let version = versions.choose(hello.versions)?;
        check_role(channel.expected_role, hello.role)?;
        let choice = Choice { version, versions, role: us.role(), nonce };
        let accepter = Self { channel, hello, choice };
        let signature = us.sign(&to_bytes(&accepter.transcript(us, ACCEPTER)));
        let answer = Answer { choice: accepter.choice.clone(), signature };
        Ok((accepter, answer))
    }

    /// Checks the dialler's signature.
    pub(crate) fn confirmed(self, us: &Identity, confirm: &Confirm) -> Result<Session, TransportError> {
        check_signature(&self.channel.peer, &self.transcript(us, DIALLER), &confirm.signature)?;
        Ok(Session {
            peer: self.channel.peer,
            role: self.hello.role,
            version: self.choice.version,
            purpose: self.hello.purpose,
        })
    }

    fn transcript<'a>(&'a self, us: &Identity, side: u8) -> Transcript<'a> {
        Transcript {
            domain: DOMAIN,
            side,
            exporter: self.channel.exporter,
            dialler: *self.channel.peer.as_bytes(),
            accepter: *us.public().as_bytes(),
            hello: &self.hello,
            choice: &self.choice,
        }
    }
}

fn check_role(expected: Role, claimed: Role) -> Result<(), TransportError> {
    if expected == claimed { Ok(()) } else { Err(TransportError::KeyRoleMismatch { expected, claimed }) }
}

fn check_signature(
    key: &PublicKey,
    transcript: &Transcript<'_>,
    signature: &Signature,
) -> Result<(), TransportError> {
    key.verify(&to_bytes(transcript), signature)
        .map_err(|_| TransportError::SessionBindingMismatch { what: "hello signature" })
}

/// The last nonces of all peers, oldest forgotten first. Freshness does not rest on it (our own nonce and the
/// exporter do that); it makes a replay visible as what it is.
#[derive(Debug, Default)]
pub(crate) struct NonceMemory {
    order: VecDeque<([u8; 32], [u8; 16])>,
    known: HashSet<([u8; 32], [u8; 16])>,
}

/// Nonces remembered.
const NONCES: usize = 4096;

impl NonceMemory {
    /// Whether the nonce is new.
    fn insert(&mut self, peer: &[u8; 32], nonce: [u8; 16]) -> bool {
        let entry = (*peer, nonce);
        if !self.known.insert(entry) {
            return false;
        }
        self.order.push_back(entry);
        if self.order.len() > NONCES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}
