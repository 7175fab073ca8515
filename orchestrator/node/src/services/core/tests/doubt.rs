//! A replica that others contradict: it stops, has its guest taken back, and serves again.

use quorate_attest::id::GroupId;

use super::super::*;
use super::world::*;

#[test]
fn f_liars_do_not_stop_an_honest_replica_and_f_plus_1_do() {
    let (mut world, mut core) = World::settled(0, 10);
    let ours = world.ours(9);
    let compare = |theirs: Vec<SignedReceipt>| Event::Compared { ours: Box::new(ours), theirs };
    let one = lie(&ours.receipt, 1);
    let forged = SignedReceipt { replica: 2, ..one };
    let own = lie(&ours.receipt, 0);
    let other_lie = {
        let receipt = ServiceReceipt { result: [0xce; 32], ..ours.receipt };
        SignedReceipt { replica: 2, receipt, signature: receipt.sign(&vote_key(2)) }
    };
    let outsider = SignedReceipt { replica: 9, ..one };
    let elsewhere = {
        let receipt = ServiceReceipt { group: GroupId::from_bytes([9; 32]), ..one.receipt };
        let sign = |replica| SignedReceipt { replica, receipt, signature: receipt.sign(&vote_key(replica)) };
        vec![sign(1), sign(2)]
    };
    for theirs in [
        vec![one],
        vec![one, one],
        vec![one, forged],
        vec![one, own],
        vec![one, other_lie],
        vec![one, outsider],
        elsewhere,
    ] {
        assert!(world.cycle(&mut core, compare(theirs)).is_ok());
        assert!(!core.is_stopped() && world.evidence.is_empty());
        assert_eq!(world.agreed, 0);
    }
    let agree = [1, 2].map(|replica| truth(&ours.receipt, replica));
    assert!(world.cycle(&mut core, compare([&agree[..], &[lie(&ours.receipt, 3)]].concat())).is_ok());
    assert_eq!(world.agreed, 10);
    assert!(world.cycle(&mut core, compare(vec![one, lie(&ours.receipt, 2)])).is_ok());
    assert!(core.is_stopped() && world.stopped);
    assert_eq!((core.size(), world.file.len()), (9, 9));
    let evidence = world.evidence.pop().unwrap();
    assert_eq!((evidence.ours, evidence.theirs.len()), (ours, 2));
    assert_eq!(StopEvidence::decoded(&evidence.encoded()), Ok(evidence));
}

#[test]
fn a_replica_that_diverged_has_its_guest_taken_back_and_serves_once_f_plus_1_agree() {
    let want = honest(30);
    let (mut world, mut core) = World::settled(0, 9);
    let slot = world.machines.clone();
    // A bit of its guest's memory flips.
    world.machines.get_mut(&0).unwrap().corrupt();
    world.ordered = 20;
    assert!(world.settle(&mut core).is_ok());
    assert_ne!(world.file[19].receipt, want[19].receipt);
    let lies = world.signed.clone();
    let theirs = |number: usize| vec![truth(&want[number].receipt, 1), truth(&want[number].receipt, 2)];
    let ours = world.ours(19);
    assert!(world.cycle(&mut core, Event::Compared { ours: Box::new(ours), theirs: theirs(19) }).is_ok());
    assert!(core.is_stopped());
    world.peers = told_by_two(&want[..20]);
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(core.size(), 19, "a wrong state is not covered up with the results of others");
    assert_eq!(world.rewinds[..3], [0, 1, 2], "each attempt is told from the one before");
    world.slot = Some(slot);
    // In between the process may be restarted.
    let mut core = world.core();
    world.rewinds.clear();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(world.rewinds, [0], "once is enough");
    assert_eq!(receipts(&world.file), receipts(&want[..20]));
    assert!(core.is_stopped(), "its word alone does not count");
    for done in &world.file {
        let number = done.receipt.number;
        let contradicts = lies[&number] != done.receipt;
        assert_eq!(
            done.signature.is_none(),
            contradicts,
            "what contradicts a signature stays unsigned: {number}"
        );
    }
    world.ordered = 30;
    assert!(world.settle(&mut core).is_ok());
    let ours = world.ours(29);
    assert!(
        world.cycle(&mut core, Event::Compared { ours: Box::new(ours), theirs: vec![theirs(29)[0]] }).is_ok()
    );
    assert!(core.is_stopped());
    assert!(world.cycle(&mut core, Event::Compared { ours: Box::new(ours), theirs: theirs(29) }).is_ok());
    assert!(!core.is_stopped() && !world.stopped);
    assert!(world.file[29].signature.is_some());
}

/// The host altered the replies on their way, and the slot that it goes back to is newer than the lies.
#[test]
fn a_replica_that_was_lied_to_for_long_finds_the_part_of_its_log_that_others_have_too() {
    let want = honest(30);
    for (from, to) in [(19, 20), (9, 20), (1, 20), (0, 20), (12, 17)] {
        let (mut world, _) = World::settled(0, 20);
        let mut log = world.log(from);
        for number in from..20 {
            let done = &mut world.file[number as usize];
            if number < to {
                done.receipt.result = [0xbd; 32];
            }
            log.push(Sha256Tree::leaf(&done.receipt.leaf().encoded()));
            done.receipt.log_root = log.root();
        }
        world.slot = Some(world.machines.clone());
        world.peers = told_by_two(&want);
        let mut core = world.core();
        let ours = world.ours(19);
        let theirs = [1, 2].map(|replica| truth(&want[19].receipt, replica)).to_vec();
        let compared = Event::Compared { ours: Box::new(ours), theirs };
        assert!(world.cycle(&mut core, compared).is_ok());
        assert!(core.is_stopped());
        world.ordered = 30;
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(receipts(&world.file), receipts(&want), "lies about {from} to {to}");
        assert_eq!((world.rewinds.len(), world.evidence.len()), (1, 1));

        let agree = |number: usize| Event::Compared {
            ours: Box::new(world.ours(number as u64)),
            theirs: [1, 2].map(|replica| truth(&want[number].receipt, replica)).to_vec(),
        };
        let (adopted, executed) = (agree(19), agree(29));
        assert!(world.cycle(&mut core, adopted).is_ok());
        assert!(core.is_stopped(), "what others told shows nothing about the guest");
        assert!(world.cycle(&mut core, executed).is_ok());
        assert!(!core.is_stopped() && !world.stopped);
    }
}

#[test]
fn a_guest_that_is_wrong_in_its_slot_too_is_taken_back_again_and_again_and_serves_nothing() {
    let want = honest(30);
    let (mut world, mut core) = World::settled(0, 10);
    let healthy = world.machines.clone();
    world.machines.get_mut(&0).unwrap().corrupt();
    world.slot = Some(world.machines.clone());
    world.ordered = 20;
    world.peers = told_by_two(&want[..20]);
    assert!(world.settle(&mut core).is_ok());
    let theirs = |number: usize| [1, 2].map(|replica| truth(&want[number].receipt, replica)).to_vec();
    let compared = Event::Compared { ours: Box::new(world.ours(19)), theirs: theirs(19) };
    assert!(world.cycle(&mut core, compared).is_ok());
    assert!(world.settle(&mut core).is_ok());
    assert!(core.is_stopped());
    let attempts = world.rewinds.len() as u32;
    assert!(attempts > 1 && world.rewinds == (0..attempts).collect::<Vec<_>>(), "{:?}", world.rewinds);

    // It is compared now and then, as long as it takes.
    world.slot = Some(healthy);
    world.ordered = 30;
    world.peers = told_by_two(&want);
    for _ in 0..3 {
        assert!(world.settle(&mut core).is_ok());
        let compared = Event::Compared { ours: Box::new(world.ours(29)), theirs: theirs(29) };
        assert!(world.cycle(&mut core, compared).is_ok());
    }
    assert!(!core.is_stopped() && !world.stopped);
    assert!(receipts(&world.file) == receipts(&want), "it has the log of the others again");
}

/// The host alters replies while the guest executes again, too, and others are asked at every moment.
#[test]
fn a_replica_that_is_lied_to_while_it_is_rebuilt_is_not_held_up_by_what_it_held_before() {
    let want = honest(40);
    for lies in 1..30 {
        let (mut world, _) = World::settled(0, 5);
        world.slot = Some(world.machines.clone());
        world.peers = told_by_two(&want);
        world.lies = lies;
        world.ordered = 20;
        let mut core = world.core();
        let mut stopped = false;
        for _ in 0..100 {
            assert!(world.cycle(&mut core, Event::Wake).is_ok());
            for number in [19, 12, world.file.len() as u64] {
                let Some(newest) = number.min(world.file.len() as u64).checked_sub(1) else { continue };
                let theirs = [1, 2].map(|replica| truth(&want[newest as usize].receipt, replica)).to_vec();
                let compared = Event::Compared { ours: Box::new(world.ours(newest)), theirs };
                assert!(world.cycle(&mut core, compared).is_ok());
                stopped |= core.is_stopped();
            }
            world.ordered = (world.ordered + 1).min(40);
        }
        assert!(stopped && !core.is_stopped() && world.lies == 0, "{lies} lies");
        assert_eq!(receipts(&world.file), receipts(&want), "{lies} lies");
        assert!(world.rewinds.len() <= lies as usize, "{lies} lies: {:?}", world.rewinds);
    }
}
