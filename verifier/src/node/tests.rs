//! The journal over a device that fails: what left the node must be on the device.

use std::sync::Arc;

use quorate_attest::group::GroupConfig;
use quorate_attest::id::{GroupId, Slot};
use quorate_attest::vm::Mode;

use super::journal::{Change, Identity, Journal};
use crate::core::model::*;
use crate::core::{Effect, Input, Record, VmCore, VmState};
use crate::protocol::*;
use crate::sign_log::tests::device::Device;
use crate::sign_log::{SignLog, SignLogError};

fn device_of(context: &crate::core::Context) -> Device {
    let device = Device::default();
    let mut log = SignLog::open(device.clone()).unwrap().log;
    log.rewrite(&[Identity::of(context).entry()]).unwrap();
    device
}

fn open(device: &Device, context: &crate::core::Context) -> Journal<Device> {
    Journal::restore(SignLog::open(device.clone()).unwrap(), context).unwrap()
}

/// Performs a request as the node does: a record is durable before the answer leaves. What left is returned.
fn perform(
    core: &mut VmCore,
    journal: &mut Journal<Device>,
    propose: &Propose,
) -> Result<Vec<FromVerifier>, SignLogError> {
    let mut left = Vec::new();
    let message = Box::new(ToVerifier::Propose(propose.clone()));
    let mut effects = std::collections::VecDeque::from(core.step(NOW, Input::Message(message)));
    let mut state = State::genesis();
    while let Some(effect) = effects.pop_front() {
        match effect {
            Effect::Persist(record) => journal.append(&[(core.vm(), *record)], || {})?,
            Effect::Send(answer) => left.push(*answer),
            Effect::Boot => state = State::genesis(),
            Effect::Replay { inputs, .. } => {
                effects.extend(core.step(NOW, Input::Replayed(Ok(state.run(&inputs)))))
            }
            other => panic!("not expected: {other:?}"),
        }
    }
    Ok(left)
}

fn core_of(journal: &Journal<Device>, context: &Arc<crate::core::Context>) -> VmCore {
    let (_, state) = journal.states().next().unwrap();
    VmCore::new(Arc::clone(context), state.clone(), State::genesis().measurement())
}

#[test]
fn no_attestation_leaves_after_a_failed_sync_and_what_left_is_never_contradicted() {
    let run = HostRun::new(&group(4, 1), spec());
    let context = context(&run.group, 0, Mode::Replayed);
    for failing in 1..=4 {
        let device = device_of(&context);
        let mut journal = open(&device, &context);
        device.fail_sync(failing);
        let mut host = run.clone();
        let registered = journal.append(&[(run.vm(), Record::Registered { spec: run.spec.clone() })], || {});
        if registered.is_err() {
            assert_eq!(failing, 1);
            assert!(
                Journal::restore(SignLog::open(device.after_power_cut()).unwrap(), &context)
                    .unwrap()
                    .states()
                    .next()
                    .is_none()
            );
            continue;
        }
        let mut core = core_of(&journal, &context);
        let mut left = Vec::new();
        let proposals = [host.next(&[]), host.next(&inputs(2))];
        for propose in &proposals {
            match perform(&mut core, &mut journal, propose) {
                Ok(answers) => left.extend(answers),
                Err(error) => {
                    assert_eq!((error.kind(), error.exit_code()), ("StorageSyncFailed", 74));
                    break;
                }
            }
        }
        assert_eq!(left.len(), (failing - 2).min(2), "one sync an attestation, sync {failing} fails");
        // Power is cut. What left is still the answer to the same question.
        let disk = device.after_power_cut();
        let mut journal = open(&disk, &context);
        let mut core = core_of(&journal, &context);
        for (propose, answer) in proposals.iter().zip(&left).rev().take(1) {
            assert_eq!(perform(&mut core, &mut journal, propose).unwrap(), std::slice::from_ref(answer));
        }
    }
}

#[test]
fn kill_between_persist_and_send_repeats_the_same_vote_and_before_the_sync_none() {
    let mut run = HostRun::new(&group(4, 1), spec());
    let context = context(&run.group, 0, Mode::Replayed);
    let device = device_of(&context);
    let mut journal = open(&device, &context);
    journal.append(&[(run.vm(), Record::Registered { spec: run.spec.clone() })], || {}).unwrap();
    let mut core = core_of(&journal, &context);
    perform(&mut core, &mut journal, &run.next(&[])).unwrap();
    let before = device.after_power_cut();
    let mut forked = run.clone();
    let (propose, fork) = (run.next(&inputs(1)), forked.next(&inputs(2)));
    let answer = perform(&mut core, &mut journal, &propose).unwrap();

    // Killed after the sync, before the answer left.
    let mut journal = open(&device.after_power_cut(), &context);
    let mut core = core_of(&journal, &context);
    assert_eq!(core.state().signed.as_ref().map(|signed| signed.statement().slot), Some(Slot(1)));
    assert_eq!(perform(&mut core, &mut journal, &propose).unwrap(), answer);

    // Killed before the sync: nothing left, so the other branch may be signed.
    let mut journal = open(&before, &context);
    let mut core = core_of(&journal, &context);
    assert!(matches!(perform(&mut core, &mut journal, &fork).unwrap()[..], [FromVerifier::Attested(_)]));
}

#[test]
fn sign_log_of_another_identity_or_group_is_refused() {
    let run = HostRun::new(&group(4, 1), spec());
    let device = device_of(&context(&run.group, 0, Mode::Replayed));
    let foreign = GroupConfig { genesis: Some(GroupId::from_bytes([8; 32])), ..run.group.clone() };
    for other in [context(&run.group, 1, Mode::Replayed), context(&foreign, 0, Mode::Replayed)] {
        let opened = SignLog::open(device.clone()).unwrap();
        let error = Journal::restore(opened, &other).map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), ("SignStateMissing", 78));
    }
}

#[test]
fn sign_log_goes_on_in_later_epochs_under_its_members_name_and_never_back() {
    let mut run = HostRun::new(&group(4, 1), spec());
    let before = context(&run.group, 0, Mode::Replayed);
    let rotated = next_epoch(&before.group, |config| config.members[0].vote_key = vote_key(10).public());
    let renamed = next_epoch(&before.group, |config| {
        config.members[0].vote_key = vote_key(10).public();
        config.members[0].name = "verifier-9".into();
    });
    let device = device_of(&before);
    let mut journal = open(&device, &before);
    let registered = Record::Registered { spec: run.spec.clone() };
    journal.append(&[(run.vm(), registered)], || {}).unwrap();
    let mut core = core_of(&journal, &before);
    let (propose, refused) = (run.next(&[]), "SignStateMissing");
    perform(&mut core, &mut journal, &propose).unwrap();

    let after = context_in(&rotated, 0, Mode::Replayed, vote_key(10));
    let restore = |context: &crate::core::Context| {
        Journal::restore(SignLog::open(device.clone()).unwrap(), context).map_err(|error| error.kind())
    };
    let stranger = context_in(&renamed, 0, Mode::Replayed, vote_key(10));
    let other = context_in(&rotated, 1, Mode::Replayed, vote_key(1));
    assert_eq!(restore(&stranger).map(|_| ()), Err(refused));
    assert_eq!(restore(&other).map(|_| ()), Err(refused));
    let journal = restore(&after).unwrap();
    let (_, state) = journal.states().next().unwrap();
    assert_eq!(state.signed.as_ref().map(|signed| signed.statement().slot), Some(Slot(0)));
    assert_eq!(restore(&before).map(|_| ()), Err(refused), "nothing is signed in a retired epoch again");
    assert!(restore(&after).is_ok());
}

#[test]
fn compaction_keeps_every_state_and_bounds_the_log() {
    let mut run = HostRun::new(&group(4, 1), spec());
    let context = context(&run.group, 0, Mode::Sampled);
    let device = device_of(&context);
    let mut journal = open(&device, &context);
    let mut verifier = Verifier::sampled(&run);
    for slot in 0..200 {
        let propose = run.next(&inputs(slot % 3));
        attested(verifier.propose_with_pages(&propose, &run.state));
    }
    let changes: Vec<Change> = verifier.records.iter().map(|record| (run.vm(), record.clone())).collect();
    changes.chunks(30).for_each(|batch| journal.append(batch, || {}).unwrap());
    let states: Vec<VmState> = journal.states().map(|(_, state)| state.clone()).collect();
    assert_eq!(states, [verifier.core.state().clone()]);
    let size = journal.size();
    journal.compact().unwrap();
    assert!(journal.size() * 3 < size, "{} of {size}", journal.size());
    let restored = open(&device.after_power_cut(), &context);
    assert_eq!(restored.states().map(|(_, state)| state.clone()).collect::<Vec<_>>(), states);
}
