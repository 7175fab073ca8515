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

/// A dialler's signature as it would be in `channel`, whatever session that is of.
#[cfg(test)]
pub(crate) fn sign_for_test(us: &Identity, channel: &Channel, hello: &Hello, answer: &Answer) -> Confirm {
    let transcript = Transcript {
        domain: DOMAIN,
        side: DIALLER,
        exporter: channel.exporter,
        dialler: *us.public().as_bytes(),
        accepter: *channel.peer.as_bytes(),
        hello,
        choice: &answer.choice,
    };
    Confirm { signature: us.sign(&to_bytes(&transcript)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::key;

    const EXPORTER: [u8; 32] = [9; 32];

    fn us(n: u8, role: Role) -> Identity {
        Identity::new(&key(n), role)
    }

    fn channel(peer: u8, expected_role: Role) -> Channel {
        Channel { exporter: EXPORTER, peer: key(peer).public(), expected_role }
    }

    fn dialler() -> (Dialler, Hello) {
        let channel = channel(3, Role::Verifier);
        Dialler::start(&us(1, Role::Host), Versions { lowest: 1, highest: 3 }, channel, MESSAGES, [1; 16])
    }

    fn accept(hello: Hello) -> (Accepter, Answer) {
        let versions = Versions { lowest: 1, highest: 2 };
        let (channel, mut seen) = (channel(1, Role::Host), NonceMemory::default());
        Accepter::greeted(&us(3, Role::Verifier), versions, channel, hello, [2; 16], &mut seen).unwrap()
    }

    #[test]
    fn test_honest_hello_agrees_on_the_highest_common_version() {
        let (dialler, hello) = dialler();
        let (accepter, answer) = accept(hello);
        let (session, confirm) = dialler.answered(&us(1, Role::Host), &answer).unwrap();
        assert_eq!((session.version, session.role), (2, Role::Verifier));
        let session = accepter.confirmed(&us(3, Role::Verifier), &confirm).unwrap();
        assert_eq!((session.version, session.role, session.purpose), (2, Role::Host, MESSAGES));
    }

    #[test]
    fn test_each_changed_field_of_the_hello_breaks_the_dialler_or_the_signature() {
        let changes: [fn(&mut Hello); 4] = [
            |hello| hello.versions.highest = 2,
            |hello| hello.versions.lowest = 2,
            |hello| hello.purpose = [1; 32],
            |hello| hello.nonce = [7; 16],
        ];
        for change in changes {
            let (dialler, mut hello) = dialler();
            change(&mut hello);
            let (_, answer) = accept(hello);
            let error = dialler.answered(&us(1, Role::Host), &answer).unwrap_err();
            assert_eq!(error.kind(), "SessionBindingMismatch");
        }
    }

    #[test]
    fn test_each_changed_field_of_the_answer_is_refused() {
        type Change = fn(&mut Answer);
        let changes: [(Change, &str); 6] = [
            (|answer| answer.choice.version = 1, "SessionBindingMismatch"),
            (|answer| answer.choice.versions.highest = 1, "SessionBindingMismatch"),
            (|answer| answer.choice.versions.lowest = 2, "SessionBindingMismatch"),
            (|answer| answer.choice.role = Role::Host, "KeyRoleMismatch"),
            (|answer| answer.choice.nonce = [3; 16], "SessionBindingMismatch"),
            (|answer| answer.choice.nonce = [1; 16], "NonceReused"),
        ];
        for (change, kind) in changes {
            let (dialler, hello) = dialler();
            let (_, mut answer) = accept(hello);
            change(&mut answer);
            assert_eq!(dialler.answered(&us(1, Role::Host), &answer).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn test_hello_relayed_by_a_known_node_is_refused() {
        // Host 2 passes the messages of host 1 on in its own TLS session with the verifier.
        let (dialler, hello) = dialler();
        let (verifier, mut seen) = (us(3, Role::Verifier), NonceMemory::default());
        let channel = Channel { exporter: [8; 32], ..channel(2, Role::Host) };
        let greeted =
            Accepter::greeted(&verifier, Versions::SPOKEN, channel, hello.clone(), [2; 16], &mut seen);
        let (accepter, answer) = greeted.unwrap();
        assert!(dialler.answered(&us(1, Role::Host), &answer).is_err(), "the honest dialler notices");
        let confirm =
            sign_for_test(&us(1, Role::Host), &super::tests::channel(3, Role::Verifier), &hello, &answer);
        let error = accepter.confirmed(&verifier, &confirm).unwrap_err();
        assert_eq!(error.kind(), "SessionBindingMismatch");
    }

    #[test]
    fn test_signature_of_one_side_is_not_that_of_the_other() {
        let (_, hello) = dialler();
        let (accepter, answer) = accept(hello);
        let reflected = Confirm { signature: answer.signature };
        assert!(accepter.confirmed(&us(3, Role::Verifier), &reflected).is_err());
    }

    #[test]
    fn test_nonce_memory_is_bounded_and_finds_repeats() {
        let mut seen = NonceMemory::default();
        for n in 0..10_000u128 {
            assert!(seen.insert(&[1; 32], n.to_le_bytes()));
        }
        assert_eq!((seen.order.len(), seen.known.len()), (NONCES, NONCES));
        assert!(!seen.insert(&[1; 32], 9_999u128.to_le_bytes()));
        assert!(seen.insert(&[2; 32], 9_999u128.to_le_bytes()), "nonces of another key are its own");
    }

    #[test]
    fn test_transcript_has_a_fixed_layout() {
        let (_, hello) = dialler();
        let choice = Choice {
            version: 2,
            versions: Versions { lowest: 1, highest: 2 },
            role: Role::Verifier,
            nonce: [2; 16],
        };
        let transcript = Transcript {
            domain: DOMAIN,
            side: DIALLER,
            exporter: EXPORTER,
            dialler: [1; 32],
            accepter: [3; 32],
            hello: &hello,
            choice: &choice,
        };
        let mut expected = DOMAIN.to_vec();
        expected.push(0);
        expected.extend([[9; 32], [1; 32], [3; 32]].concat());
        expected.extend([1, 0, 3, 0, 1].iter().chain(&MESSAGES).chain(&[1; 16]));
        expected.extend([2, 0, 1, 0, 2, 0, 2].iter().chain(&[2; 16]));
        assert_eq!(to_bytes(&transcript), expected, "a changed byte breaks every peer");
    }

    proptest::proptest! {
        #[test]
        fn test_any_bytes_as_hello_are_refused_or_canonical(tag in 0u8..5, body: Vec<u8>) {
            use crate::wire::Wire;
            if let Ok(message) = HelloMessage::decode_body(tag, &body) {
                proptest::prop_assert_eq!((message.tag(), message.encode_body()), (tag, body));
            }
        }
    }
}
