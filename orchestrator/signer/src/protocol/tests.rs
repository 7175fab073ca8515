use proptest::prelude::*;
use quorate_attest::key::SecretKey;

use super::*;
use crate::tests::fixture::{head, statement};

const PATIENCE: Duration = Duration::from_secs(60);

/// One of each message.
fn requests() -> Vec<ToSigner> {
    vec![
        ToSigner::Sign { statements: vec![statement(0, 1, 2), Vec::new()] },
        ToSigner::Cosign(head(0, 0, 3, 6)),
        ToSigner::Public,
    ]
}

fn answers() -> Vec<FromSigner> {
    let key = SecretKey::from_seed([3; 32]);
    let floor = Floor {
        instance: [1; 32].into(),
        kind: Kind::SERVICE_RECEIPT,
        lowest: 4,
        newest: 9,
        digest: [2; 32].into(),
    };
    let public = Public {
        vote: key.public(),
        cosigner: key.public(),
        cosigner_name: "demo/replica-0".to_owned(),
        floors: vec![floor],
        heads: vec![head(0, 0, 0, 3).head],
    };
    vec![
        FromSigner::Signed { signatures: vec![Ok(key.sign(b"x")), Err(Refused::new("DoubleVote", "no"))] },
        FromSigner::Cosigned { line: "— x y".to_owned() },
        FromSigner::Public(public),
        FromSigner::Refused(Refused::new("Stale", "old")),
    ]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn read_bytes<T: Bounded>(mut bytes: &[u8]) -> Result<Option<T>, FrameError> {
    block_on(read(&mut bytes, PATIENCE))
}

#[test]
fn messages_survive_the_socket() {
    for message in requests() {
        assert_eq!(read_bytes(&frame(&message).unwrap()).unwrap(), Some(message));
    }
    for message in answers() {
        assert_eq!(read_bytes(&frame(&message).unwrap()).unwrap(), Some(message));
    }
    assert_eq!(read_bytes::<ToSigner>(&[]).unwrap(), None, "the connection ended in order");
}

#[test]
fn frames_that_are_cut_anywhere_do_not_decode() {
    for message in requests() {
        let bytes = frame(&message).unwrap();
        for cut in 1..bytes.len() {
            assert_eq!(read_bytes::<ToSigner>(&bytes[..cut]).unwrap_err().kind(), "SocketError", "{cut}");
            // A frame that says so of itself.
            if let Some(body) = bytes[..cut].get(4..) {
                let shorter = [&(body.len() as u32).to_le_bytes()[..], body].concat();
                assert_eq!(read_bytes::<ToSigner>(&shorter).unwrap_err().kind(), "DecodeError", "{cut}");
            }
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_read() {
    for length in [FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let error = read_bytes::<ToSigner>(&length.to_le_bytes()).unwrap_err();
        assert_eq!(error.kind(), "MessageTooLarge");
    }
    let large = ToSigner::Sign { statements: vec![vec![0; 65_536]; 17] };
    assert_eq!(frame(&large).unwrap_err().kind(), "MessageTooLarge");
}

#[test]
fn lists_and_texts_over_their_limits_do_not_decode() {
    let long = "x".repeat(ORIGIN_BYTES_MAX + 1);
    let mut cosign = head(0, 0, 0, 3);
    cosign.head.origin = long;
    let mut proof = head(0, 0, 0, 3);
    proof.proof = vec![[0; 32]; PROOF_LIMIT + 1];
    let many = ToSigner::Sign { statements: vec![Vec::new(); STATEMENTS_MAX + 1] };
    let wide = ToSigner::Sign { statements: vec![vec![0; <Statement as Bounded>::LIMIT + 1]] };
    for message in [ToSigner::Cosign(cosign), ToSigner::Cosign(proof), many, wide] {
        assert_eq!(read_bytes::<ToSigner>(&frame(&message).unwrap()).unwrap_err().kind(), "DecodeError");
    }
    let most = ToSigner::Sign { statements: vec![Vec::new(); STATEMENTS_MAX] };
    assert!(read_bytes::<ToSigner>(&frame(&most).unwrap()).is_ok());
}

#[test]
fn the_largest_answers_fit_a_frame() {
    let refused = Refused::new(&"K".repeat(64), "é".repeat(1000));
    assert!(refused.detail.len() <= DETAIL_BYTES_MAX);
    let signed = FromSigner::Signed { signatures: vec![Err(refused); STATEMENTS_MAX] };
    let Some(FromSigner::Public(mut public)) = answers().into_iter().nth(2) else { panic!() };
    public.floors = vec![public.floors[0]; INSTANCES_MAX];
    public.heads[0].origin = "x".repeat(ORIGIN_BYTES_MAX);
    public.heads = vec![public.heads[0].clone(); ORIGINS_MAX];
    for message in [signed, FromSigner::Public(public)] {
        assert_eq!(read_bytes(&frame(&message).unwrap()).unwrap(), Some(message));
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = ToSigner::decoded(&bytes) {
            prop_assert_eq!(message.encoded(), bytes.clone());
        }
        if let Ok(message) = FromSigner::decoded(&bytes) {
            prop_assert_eq!(message.encoded(), bytes);
        }
    }

    #[test]
    fn changed_bytes_are_refused_or_another_message(which in 0usize..3, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let message = requests().swap_remove(which);
        let mut bytes = message.encoded();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = ToSigner::decoded(&bytes) {
            prop_assert_ne!(&other, &message);
            prop_assert_eq!(other.encoded(), bytes);
        }
    }

    #[test]
    fn changed_answers_are_refused_or_another_message(which in 0usize..4, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let message = answers().swap_remove(which);
        let mut bytes = message.encoded();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = FromSigner::decoded(&bytes) {
            prop_assert_ne!(&other, &message);
            prop_assert_eq!(other.encoded(), bytes);
        }
    }
}
