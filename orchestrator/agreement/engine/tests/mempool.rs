//! Shares, order and repetition of pending operations.

use bytes::Bytes;
use proptest::prelude::*;
use quorate_agreement_engine::limits::MempoolLimits;
use quorate_agreement_engine::mempool::{Inserted, Mempool, Origin};

fn id(number: u8) -> [u8; 32] {
    [number; 32]
}

fn operation(length: usize) -> Bytes {
    Bytes::from(vec![9; length])
}

#[test]
fn test_a_member_that_floods_takes_nothing_from_others() {
    let mut mempool = Mempool::new(MempoolLimits { operations: 3, bytes: 100 });
    for number in 0..3 {
        assert_eq!(mempool.insert(id(number), operation(10), Origin::Member(1)), Inserted::New);
    }
    assert_eq!(mempool.insert(id(3), operation(10), Origin::Member(1)), Inserted::Full);
    assert_eq!(mempool.insert(id(3), operation(10), Origin::Member(2)), Inserted::New);
    assert_eq!(
        mempool.insert(id(4), operation(101), Origin::Own),
        Inserted::Full,
        "more bytes than its share"
    );
    assert_eq!(mempool.insert(id(4), operation(100), Origin::Own), Inserted::New);
    mempool.remove([&id(0), &id(9)]);
    assert_eq!(
        mempool.insert(id(5), operation(10), Origin::Member(1)),
        Inserted::New,
        "a place is free again"
    );
}

#[test]
fn test_what_is_submitted_here_becomes_our_own_to_repeat() {
    let mut mempool = Mempool::new(MempoolLimits::default());
    mempool.insert(id(1), operation(10), Origin::Member(1));
    mempool.insert(id(2), operation(20), Origin::Member(1));
    assert_eq!(mempool.insert(id(2), operation(20), Origin::Own), Inserted::Known);
    assert!(mempool.aged(1000).is_empty(), "nothing has waited for a whole tick");
    assert_eq!(mempool.aged(1000), [operation(20)]);
    mempool.remove([&id(2)]);
    assert!(mempool.aged(1000).is_empty() && mempool.len() == 1);
}

proptest! {
    #[test]
    fn test_operations_are_taken_oldest_first_within_the_bounds(
        lengths in prop::collection::vec(1usize..50, 0..40), count in 0usize..20, bytes in 0usize..400,
    ) {
        let mut mempool = Mempool::new(MempoolLimits::default());
        for (number, length) in lengths.iter().enumerate() {
            mempool.insert(id(number as u8), operation(*length), Origin::Own);
        }
        let taken = mempool.take(count, bytes, |id| id[0] % 5 == 0);
        let size: usize = taken.iter().map(|(_, operation)| operation.len()).sum();
        prop_assert!(taken.len() <= count && size <= bytes);
        let wanted = (0..lengths.len() as u8).filter(|number| number % 5 != 0).take(taken.len());
        prop_assert_eq!(taken.iter().map(|(id, _)| id[0]).collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        prop_assert_eq!(mempool.len(), lengths.len(), "taken operations stay until they are final");
    }
}
