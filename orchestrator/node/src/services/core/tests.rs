//! One replica, undisturbed, killed and lied to by its guest.

mod doubt;
mod world;

use proptest::prelude::*;
use quorate_attest::request::status;

use super::*;
use crate::services::tests::fixture::Machine;
use world::*;

#[test]
fn entries_are_executed_in_order_and_every_replica_says_the_same() {
    let (world, core) = World::settled(0, 30);
    assert_eq!((core.size(), world.file.len()), (30, 30));
    assert_eq!(receipts(&world.file), receipts(&honest(30)));
    for (number, done) in (0u64..).zip(&world.file) {
        assert_eq!((done.receipt.number, done.receipt.log_size), (number, number + 1));
        let digest: Digest = Sha256::digest(&done.reply).into();
        assert_eq!(done.receipt.result, digest);
        done.receipt.verify_vote(&group(), 0, &done.signature.unwrap()).unwrap();
    }
}

/// All replicas may be killed at once, so that nobody has what the guest answered last but the guest.
#[test]
fn a_kill_before_any_effect_loses_nothing_also_if_nobody_else_tells() {
    let want = honest(30);
    for fuse in 0..80 {
        let mut world = World::ordering(0, 30);
        world.fuse = Some(fuse);
        let mut core = world.core();
        let killed = world.settle(&mut core).is_err();
        world.fuse = None;
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(receipts(&world.file), receipts(&want), "killed before effect {fuse}: {killed}");
        assert!(world.file.iter().all(|done| done.signature.is_some()) && world.evidence.is_empty());
    }
}

#[test]
fn lost_results_are_not_taken_from_a_single_replica_nor_from_liars() {
    let others = World::settled(1, 20).0;
    let (mut world, _) = World::settled(0, 20);
    // More than the guest repeats.
    let size = 9u64;
    world.file.truncate(size as usize);
    let mut forged = others.told(size);
    forged.replica = 2;
    let mut other_reply = others.told(size);
    other_reply.reply.push(1);
    for peers in [
        vec![others.told(size)],
        vec![others.told(size), others.told(size)],
        vec![others.told(size), forged],
        vec![other_reply],
    ] {
        world.peers = peers;
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(world.file.len() as u64, size);
    }
}

/// Whoever answers last speaks in the names of all.
#[test]
fn f_liars_do_not_keep_a_replica_from_being_told_by_naming_others() {
    let want = honest(20);
    let (mut world, _) = World::settled(0, 20);
    world.file.truncate(9);
    let forged = |number: usize, replica: u16| ExecutedEntry {
        replica,
        receipt: ServiceReceipt { result: [0xbd; 32], ..want[number].receipt },
        signature: Signature::NONE,
        reply: Vec::new(),
    };
    let lies: Vec<_> = (0..20).flat_map(|number| [1, 2, 3].map(|replica| forged(number, replica))).collect();
    for first in [true, false] {
        let (honest, lies) = (told_by_two(&want), lies.clone());
        world.peers = if first { [lies, honest].concat() } else { [honest, lies].concat() };
        world.file.truncate(9);
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(receipts(&world.file), receipts(&want));
    }
}

#[test]
fn a_replica_that_lost_its_file_is_told_everything_by_others_also_where_replies_are_forgotten() {
    let want = honest(20);
    let (mut world, _) = World::settled(0, 20);
    world.file.clear();
    let told = |number: usize, replica: u16| {
        let SignedReceipt { receipt, signature, .. } = truth(&want[number].receipt, replica);
        let reply = if number < 8 { Vec::new() } else { want[number].reply.clone() };
        ExecutedEntry { replica, receipt, signature, reply }
    };
    world.peers = (0..20).flat_map(|number| [told(number, 1), told(number, 2)]).collect();
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&want));
    assert!(world.file[8..].iter().zip(&want[8..]).all(|(ours, theirs)| ours.reply == theirs.reply));
    assert!(world.file.iter().all(|done| done.signature.is_some()));
}

#[test]
fn a_guest_that_went_back_to_a_slot_is_led_to_the_same_state_and_nothing_is_signed_twice() {
    let (mut world, mut core) = World::settled(0, 20);
    let slot = World::settled(0, 9).0.machines;
    let signed = world.signed.clone();
    world.machines = slot;
    world.ordered = 25;
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(25)));
    assert_eq!(world.signed.len(), 25);
    assert!(signed.iter().all(|(number, receipt)| world.signed[number] == *receipt));
    world.machines.clear();
    world.ordered = 30;
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(30)), "even one that begins anew");
}

/// Nobody calls it, so no new entry shows where the guest stands.
#[test]
fn a_guest_that_went_back_while_nobody_calls_is_led_on_all_the_same() {
    let want = honest(20);
    let slot = World::settled(0, 9).0.machines;
    let (mut world, _) = World::settled(0, 20);
    world.machines = slot.clone();
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(world.machines[&0].next(), 20, "after a restart");

    world.machines = slot;
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(world.machines[&0].next(), 9, "it is not asked again and again");
    assert!(world.cycle(&mut core, Event::GuestBehind).is_ok());
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(world.machines[&0].next(), 20, "after a question that found it so");
    assert_eq!(receipts(&world.file), receipts(&want));
    assert!(world.evidence.is_empty());
}

#[test]
fn a_former_guest_that_went_back_is_led_to_the_entry_of_the_upgrade() {
    for (former, ordered) in [(9, 12), (9, 13), (0, 25), (11, 30)] {
        let mut world = World::ordering(0, 12);
        world.upgrades = vec![12, 20];
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        world.ordered = ordered;
        assert!(world.settle(&mut core).is_ok());
        world.machines = World::settled(0, former).0.machines;
        if former == 0 {
            world.machines.clear();
        }
        world.ordered = 33;
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        assert_eq!(receipts(&world.file), receipts(&honest(33)), "{former} {ordered}");
        let next: Vec<u64> = world.machines.values().map(Machine::next).collect();
        assert_eq!(next, [12, 20, 33], "{former} {ordered}");
        assert!(world.evidence.is_empty());
    }
}

#[test]
fn an_upgrade_takes_the_state_to_the_next_image_at_its_number_also_after_a_loss() {
    let mut world = World::ordering(0, 30);
    world.upgrades = vec![12, 20];
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(30)), "the same service");
    let next: Vec<u64> = world.machines.values().map(Machine::next).collect();
    assert_eq!(next, [12, 20, 30]);
    world.machines.remove(&2);
    world.ordered = 33;
    let mut core = world.core();
    assert!(world.settle(&mut core).is_ok());
    assert_eq!(receipts(&world.file), receipts(&honest(33)));
    assert!(world.evidence.is_empty());
}

/// Answers that a guest, or a host in its place, may invent.
fn nonsense() -> impl Strategy<Value = Output> {
    let state = any::<([u8; 32], u64)>().prop_map(|(root, size)| StateCommitment { root, size });
    let executed = (prop::collection::vec(any::<u8>(), 0..20), state)
        .prop_map(|(reply, state)| Executed { reply, state });
    prop_oneof![
        (0u64..12, prop::collection::vec(executed, 0..9))
            .prop_map(|(first, executed)| Output::Applied(Applied { first, executed })),
        (0u64..40).prop_map(|next| Output::Refused { status: status::STALE, next }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the guest answers and whenever, nothing is stored out of order or signed twice (the world asserts both), and a
    /// guest that is in order again leads on.
    #[test]
    fn out_of_order_and_invented_outputs_do_not_break_the_replica(outputs in prop::collection::vec(nonsense(), 1..40)) {
        let (mut world, mut core) = World::settled(0, 5);
        world.ordered = 12;
        for output in outputs {
            let effects = core.step(Event::Wake);
            for effect in effects {
                if let Ok(Some(event)) = world.perform(effect) {
                    let mut effects = core.step(event);
                    if matches!(effects.first(), Some(Effect::Feed { .. })) {
                        effects = core.step(Event::Output(output.clone()));
                    }
                    let mut rounds = 0;
                    while let Some(effect) = effects.pop() {
                        rounds += 1;
                        prop_assert!(rounds < 50, "it does not come to an end");
                        match effect {
                            Effect::Feed { .. } => effects = core.step(Event::Gone),
                            effect => if let Ok(Some(event)) = world.perform(effect) {
                                effects = core.step(event);
                            },
                        }
                    }
                }
            }
            prop_assert!(core.is_idle());
            prop_assert_eq!(core.size(), world.file.len() as u64);
        }
    }

    /// Events that nobody asked for change nothing.
    #[test]
    fn events_out_of_turn_change_nothing(output in nonsense()) {
        let (_, mut core) = World::settled(0, 5);
        for event in [Event::Output(output), Event::Signed(vec![None]), Event::Persisted, Event::Imported, Event::Gone,
            Event::Peers(Vec::new()), Event::Truncated(Peaks::default()), Event::Fetched(Vec::new()),
            Event::FormerBehind { next: 0 }, Event::GuestBehind, Event::Rewound]
        {
            prop_assert!(core.step(event).is_empty());
            prop_assert!(core.is_idle());
            prop_assert_eq!(core.size(), 5);
        }
    }

    #[test]
    fn random_bytes_are_no_evidence_or_decode_to_what_encodes_so(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(evidence) = StopEvidence::decoded(&bytes) {
            prop_assert_eq!(evidence.encoded(), bytes);
        }
    }
}

#[test]
fn wrong_answers_of_the_signer_are_not_stored() {
    let mut world = World::ordering(0, 3);
    let mut core = world.core();
    let mut signing = None;
    let mut events = vec![Event::Wake];
    while let Some(event) = events.pop() {
        for effect in core.step(event) {
            match effect {
                Effect::Sign(receipts) => signing = Some(receipts.len()),
                effect => events.extend(world.perform(effect).ok().flatten()),
            }
        }
    }
    let asked = signing.unwrap();
    assert!(core.step(Event::Signed(vec![None; asked + 1])).is_empty());
    assert!(core.step(Event::Signed(Vec::new())).is_empty());
    assert!(!core.is_idle(), "it still waits for one signature for each receipt");
    assert_eq!(core.step(Event::Signed(vec![None; asked])).len(), 1);
}
