//! What fuzz targets reach of the hello: its messages, and both ends of one whose keys, nonces and TLS session are fixed.

use std::fmt::Debug;

use quorate_attest::key::SecretKey;

use crate::bulk::FromAccepter;
use crate::directory::Role;
use crate::hello::{Accepter, Answer, Channel, Confirm, Dialler, Hello, HelloMessage, MESSAGES, NonceMemory};
use crate::identity::Identity;
use crate::limits::Versions;
use crate::wire::Wire;

/// What a target does with one set of messages, whose type only its own crate can name.
pub trait Frames {
    /// Does it with the messages `W`.
    fn of<W: Wire + Debug>(self);
}

/// The messages of the first stream of a connection.
pub fn hello(target: impl Frames) {
    target.of::<HelloMessage>();
}

/// The messages from the accepter of a bulk connection.
pub fn bulk(target: impl Frames) {
    target.of::<FromAccepter>();
}

/// The only hello of these two ends: what the dialler sent, what was answered, what the dialler signed then.
pub fn honest() -> Option<[HonestMessage; 3]> {
    let (dialler, hello) = dialler();
    let (accepter, answer) = greeted(hello.clone())?;
    let (_, confirm) = dialler.answered(&us(DIALLER, Role::Host), &answer).ok()?;
    accepter.confirmed(&us(ACCEPTER, Role::Verifier), &confirm).ok()?;
    let messages = [HelloMessage::from(hello), answer.into(), confirm.into()];
    Some(messages.map(|message| message.encode_body()))
}

/// Body of a message.
pub type HonestMessage = Vec<u8>;

/// Whether the accepter takes whoever sends these two bodies for the dialler.
pub fn accepts(hello: &[u8], confirm: &[u8]) -> bool {
    let Ok(HelloMessage::Hello(hello)) = HelloMessage::decode_body(1, hello) else { return false };
    let Ok(HelloMessage::Confirm(confirm)) = HelloMessage::decode_body(3, confirm) else { return false };
    greeted(hello).is_some_and(|(accepter, _)| confirmed(accepter, &confirm))
}

/// Whether the dialler takes whoever sends this body for the accepter.
pub fn dials(answer: &[u8]) -> bool {
    let Ok(HelloMessage::Answer(answer)) = HelloMessage::decode_body(2, answer) else { return false };
    dialler().0.answered(&us(DIALLER, Role::Host), &answer).is_ok()
}

const DIALLER: u8 = 1;
const ACCEPTER: u8 = 3;

fn us(key: u8, role: Role) -> Identity {
    Identity::new(&SecretKey::from_seed([key; 32]), role)
}

fn channel(peer: u8, expected_role: Role) -> Channel {
    Channel { exporter: [9; 32], peer: SecretKey::from_seed([peer; 32]).public(), expected_role }
}

fn dialler() -> (Dialler, Hello) {
    let (us, channel) = (us(DIALLER, Role::Host), channel(ACCEPTER, Role::Verifier));
    Dialler::start(&us, Versions { lowest: 1, highest: 3 }, channel, MESSAGES, [1; 16])
}

fn greeted(hello: Hello) -> Option<(Accepter, Answer)> {
    let (us, channel) = (us(ACCEPTER, Role::Verifier), channel(DIALLER, Role::Host));
    let (versions, mut seen) = (Versions { lowest: 1, highest: 2 }, NonceMemory::default());
    Accepter::greeted(&us, versions, channel, hello, [2; 16], &mut seen).ok()
}

fn confirmed(accepter: Accepter, confirm: &Confirm) -> bool {
    accepter.confirmed(&us(ACCEPTER, Role::Verifier), confirm).is_ok()
}
