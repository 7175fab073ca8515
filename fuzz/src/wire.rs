//! Frames of orchestrators, hosts, verifiers and host signers, and what travels inside them.

use std::time::Duration;

use quorate_attest::encoding::{Bounded, from_bytes};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::GroupId;
use quorate_attest::operation::Operation;
use quorate_control::{Command, Control, OUTCOME_LIMIT, Submission, decode_outcome, encode_outcome};
use quorate_host::protocol::{FromHost, ToHost};
use quorate_ordering::answers::{ChainAnswer, VmAnswer, VmPage};
use quorate_ordering::protocol::{CosignedHeads, FromOrchestrator, Question, ToOrchestrator};
use quorate_signer::protocol::{FromSigner, ToSigner, frame, read as read_signer};
use quorate_transport::{Wire, decode_frame, encode_frame};
use quorate_verifier::protocol::{FromVerifier, ToVerifier};

use crate::codec::bounded;
use crate::cut::Cut;
use crate::must;

/// How many decoders a first byte chooses from.
pub const TYPES: usize = 18;

/// Decodes the bytes as what the first one names.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    let choice = cut.below(TYPES);
    let bytes = cut.rest();
    match choice {
        0 => frames::<ToOrchestrator>(bytes),
        1 => frames::<FromOrchestrator>(bytes),
        2 => frames::<ToHost>(bytes),
        3 => frames::<FromHost>(bytes),
        4 => frames::<ToVerifier>(bytes),
        5 => frames::<FromVerifier>(bytes),
        6 => signer::<ToSigner>(bytes),
        7 => signer::<FromSigner>(bytes),
        8 => drop(bounded::<Question>(bytes)),
        9 => drop(bounded::<CosignedHeads>(bytes)),
        10 => drop(bounded::<VmAnswer>(bytes)),
        11 => drop(bounded::<VmPage>(bytes)),
        12 => chain(bytes),
        13 => drop(bounded::<Command>(bytes)),
        14 => drop(bounded::<Operation>(bytes)),
        15 => outcome(bytes),
        16 => submission(bytes),
        _ => snapshot(bytes),
    }
}

/// Bytes that are to be frames of messages whose type only their own crate can name.
pub(crate) struct Checked<'a>(pub(crate) &'a [u8]);

impl quorate_transport::fuzzing::Frames for Checked<'_> {
    fn of<W: Wire + std::fmt::Debug>(self) {
        frames::<W>(self.0);
    }
}

/// Frame after frame, as a stream brings them.
fn frames<W: Wire>(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((message, length))) = decode_frame::<W>(rest) {
        let (taken, behind) = rest.split_at(length);
        assert_eq!(must(encode_frame(&message)), taken, "encoded again");
        assert!(taken.len() - quorate_transport::HEADER <= W::limit(message.tag()).unwrap_or(0));
        if let Some((_, shorter)) = taken.split_last() {
            assert!(decode_frame::<W>(&taken[..shorter.len()]).is_ok_and(|frame| frame.is_none()));
        }
        rest = behind;
    }
}

/// The host signer's frames as its socket reads them, one after the other.
fn signer<T: Bounded>(bytes: &[u8]) {
    let runtime = must(tokio::runtime::Builder::new_current_thread().enable_time().build());
    runtime.block_on(async {
        let mut rest = bytes;
        loop {
            let before = rest;
            let Ok(Some(message)) = read_signer::<T>(&mut rest, Duration::from_secs(60)).await else { break };
            let taken = &before[..before.len() - rest.len()];
            assert_eq!(must(frame(&message)), taken, "encoded again");
        }
    });
}

/// A chain of epochs that somebody tells counts only link by link.
fn chain(bytes: &[u8]) {
    let Some(answer) = bounded::<ChainAnswer>(bytes) else { return };
    let genesis: GroupConfig = answer.genesis.clone();
    if let Ok(chain) = answer.clone().into_chain() {
        assert!(genesis.validate().is_ok() && chain.id() == genesis.id());
        assert_eq!(ChainAnswer::of(&chain), answer);
    }
}

fn outcome(bytes: &[u8]) {
    if let Ok(outcome) = decode_outcome(bytes) {
        assert!(bytes.len() <= OUTCOME_LIMIT);
        assert_eq!(encode_outcome(&outcome), bytes);
    }
}

/// An entry of the log is an operation with a signature, or nothing; its identity is its own.
fn submission(bytes: &[u8]) {
    let group = GroupId::from_bytes([3; 32]);
    let submission = Submission::read(bytes, &group);
    if let Ok(operation) = submission.operation() {
        assert_eq!(operation.encoded(), bytes);
        assert_eq!((operation.id(), operation.verify(&group)), (submission.id(), Ok(())));
    }
}

fn snapshot(bytes: &[u8]) {
    if let Ok(control) = Control::decode(bytes) {
        assert_eq!(control.encode(), bytes);
        assert!(from_bytes::<u8>(bytes, usize::MAX).is_err());
    }
}
