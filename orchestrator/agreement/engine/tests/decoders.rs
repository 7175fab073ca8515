//! What comes from other members or from disk decodes to exactly what was encoded, or is refused.

use bytes::Bytes;
use commonware_codec::{DecodeExt, Encode};
use proptest::prelude::*;
use quorate_agreement_engine::block::{Block, Header, MAX_BLOCK};
use quorate_agreement_engine::certificate::finalized;
use quorate_agreement_engine::committee::{BadCommittee, Committee};
use quorate_agreement_engine::gossip;
use quorate_agreement_engine::limits::{BLOCK_BYTES, BLOCK_OPERATIONS, GOSSIP_BYTES, OPERATION_LIMIT};

fn genesis() -> Header {
    Header::genesis(3, &[1; 32], &[2; 32], 50)
}

fn operations() -> impl Strategy<Value = Vec<Bytes>> {
    let operation = prop::collection::vec(any::<u8>(), 1..40).prop_map(Bytes::from);
    prop::collection::vec(operation, 0..20)
}

proptest! {
    #[test]
    fn test_a_block_decodes_to_itself_and_no_changed_byte_is_the_same_block(
        operations in operations(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let block = Block::build(&genesis(), operations);
        let bytes = block.encode();
        prop_assert_eq!(&Block::decode(bytes.clone()).unwrap(), &block);
        let mut changed = bytes.to_vec();
        changed[at.index(bytes.len())] ^= 1 << bit;
        if let Ok(other) = Block::decode(Bytes::from(changed.clone())) {
            prop_assert_eq!(other.encode().to_vec(), changed, "two encodings of one block");
            prop_assert_ne!(other.header().digest(), block.header().digest());
        }
        let cut = at.index(bytes.len());
        prop_assert!(Block::decode(bytes.slice(..cut)).is_err(), "cut at {}", cut);
    }

    #[test]
    fn test_any_bytes_as_a_block_are_refused_or_encode_to_themselves(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(block) = Block::decode(Bytes::from(bytes.clone())) {
            prop_assert_eq!(block.encode().to_vec(), bytes);
        }
    }

    #[test]
    fn test_gossip_decodes_to_what_was_sent(operations in operations()) {
        let batches = gossip::encode(operations.clone());
        let received: Option<Vec<_>> = batches.into_iter().map(gossip::decode).collect();
        prop_assert_eq!(received.unwrap().concat(), operations);
    }

    #[test]
    fn test_any_bytes_as_gossip_are_refused_or_encode_to_themselves(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(operations) = gossip::decode(Bytes::from(bytes.clone())) {
            prop_assert_eq!(gossip::encode(operations), vec![Bytes::from(bytes)]);
        }
    }

    #[test]
    fn test_any_bytes_as_a_finalization_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(finalized(&committee(), &bytes).is_err());
    }
}

/// Public keys of RFC 8032, tests 1 to 3, and another point.
fn committee() -> Committee {
    let keys = [
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
    ];
    let key =
        |text: &str| std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap());
    Committee::new(&[0; 32], 0, [0; 32], &keys.map(key)).unwrap()
}

#[test]
fn test_a_key_under_two_indices_makes_no_committee() {
    let key = [[0x58].to_vec(), [0x66; 31].to_vec()].concat();
    let key: [u8; 32] = key.try_into().unwrap();
    let twice = Committee::new(&[0; 32], 0, [0; 32], &[key, key]).unwrap_err();
    assert_eq!(twice, BadCommittee::Twice);
    assert_eq!(Committee::new(&[0; 32], 0, [0; 32], &[]).unwrap_err(), BadCommittee::Empty);
}

#[test]
fn test_batches_and_blocks_keep_their_bounds() {
    let operation = Bytes::from(vec![1; OPERATION_LIMIT]);
    let batches = gossip::encode(vec![operation.clone(); 5]);
    assert_eq!(batches.len(), 5);
    assert!(batches.iter().all(|batch| batch.len() <= GOSSIP_BYTES));
    let small = gossip::encode(vec![Bytes::from_static(b"o"); BLOCK_OPERATIONS + 1]);
    assert_eq!(small.len(), 2);

    let full = Block::build(&genesis(), vec![operation.clone(); BLOCK_BYTES / OPERATION_LIMIT]);
    assert!(full.encode().len() <= MAX_BLOCK && Block::decode(full.encode()).is_ok());
    let over = Block::build(&genesis(), vec![operation; BLOCK_BYTES / OPERATION_LIMIT + 1]);
    assert!(Block::decode(over.encode()).is_err(), "more bytes than a block may have");
    let many = Block::build(&genesis(), vec![Bytes::from_static(b"o"); BLOCK_OPERATIONS + 1]);
    assert!(Block::decode(many.encode()).is_err(), "more operations than a block may have");
    let large = Block::build(&genesis(), vec![Bytes::from(vec![1; OPERATION_LIMIT + 1])]);
    assert!(Block::decode(large.encode()).is_err(), "an operation over its limit");
}

#[test]
fn test_the_header_layout_is_fixed() {
    let block = Block::build(&genesis(), vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    let bytes = block.encode();
    assert_eq!(bytes[..32], genesis().digest());
    assert_eq!(
        bytes[32..60],
        [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]
    );
    assert_eq!(block.header().next_index(), 52);
}
