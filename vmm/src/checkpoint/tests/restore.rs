//! From a checkpoint back to a machine.

use super::*;
use std::path::Path;
use std::process::Command;

/// Directory in which a second process finds a checkpoint and leaves what it computed.
const SECOND_PROCESS: &str = "QUORATE_TEST_RESTORE";
const LATER: [u64; 3] = [11, 12, 13];

/// Restores, feeds the later inputs and gives the resulting measurement in text.
fn continue_from(path: &Path) -> String {
    let mut execution = Checkpoint::read(path).unwrap().restore(&worker()).expect(KVM_NEEDED);
    let pages = PageSnapshot::of_machine(execution.machine());
    assert_eq!(execution.run().unwrap(), Stop::Idle);
    let mut recorder = Recorder { execution, pages };
    let measurement = recorder.interval(&LATER);
    format!("{measurement:?} {:?}", recorder.execution.input_log().root())
}

#[test]
fn a_restored_machine_measures_the_same_and_continues_like_the_uninterrupted_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    let mut recorder = Recorder::start();
    let checkpoint = recorder.checkpoint(&[1, 2, 3]);
    checkpoint.write_full(&path).unwrap();

    let mut restored = Checkpoint::read(&path).unwrap().restore(&worker()).unwrap();
    assert_eq!(restored.position(), recorder.execution.position());
    assert_eq!(restored.cut().unwrap().pages.measurement, checkpoint.measurement());
    drop(restored);

    let measurement = recorder.interval(&LATER);
    let uninterrupted = format!("{measurement:?} {:?}", recorder.execution.input_log().root());
    assert_eq!(continue_from(&path), uninterrupted);

    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "checkpoint::tests::restore::second_process_restores_and_continues"])
        .env(SECOND_PROCESS, directory.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(directory.path().join("result")).unwrap(), uninterrupted);
}

/// The other half of the test above; by itself it has nothing to do.
#[test]
fn second_process_restores_and_continues() {
    if let Some(directory) = std::env::var_os(SECOND_PROCESS) {
        let directory = Path::new(&directory);
        std::fs::write(directory.join("result"), continue_from(&directory.join("checkpoint"))).unwrap();
    }
}

#[test]
fn a_chain_restores_to_the_state_of_its_last_difference() {
    let directory = tempfile::tempdir().unwrap();
    let (full, difference) = (directory.path().join("full"), directory.path().join("difference"));
    let mut recorder = Recorder::start();
    let first = recorder.checkpoint(&[1]);
    first.write_full(&full).unwrap();
    let second = recorder.checkpoint(&[2]);
    second.write_incremental(&difference, first.pages.tree()).unwrap();
    let mut restored = Checkpoint::read_chain(&full, &[difference]).unwrap().restore(&worker()).unwrap();
    assert_eq!(restored.cut().unwrap().pages.measurement, second.measurement());
}

#[test]
fn slot_0_can_be_restored() {
    let mut recorder = Recorder::start();
    let cut = recorder.execution.cut().unwrap();
    let checkpoint =
        Checkpoint::take(&mut recorder.execution, &cut.pages.measurement, &recorder.pages).unwrap();
    let mut restored = decode(&full_bytes(&checkpoint), None).unwrap().restore(&worker()).unwrap();
    assert_eq!(restored.run().unwrap(), Stop::Idle);
    assert_eq!(recorder.execution.run().unwrap(), Stop::Idle);
    assert_eq!(
        restored.cut().unwrap().pages.measurement,
        recorder.execution.cut().unwrap().pages.measurement
    );
}

#[test]
fn spliced_state_of_two_slots_is_refused() {
    let mut recorder = Recorder::start();
    let (first, second) = (recorder.checkpoint(&[1]), recorder.checkpoint(&[2]));
    let wanted = second.measurement();
    let splices = [
        ("memory", Checkpoint { pages: first.pages.clone(), ..second.clone() }),
        ("cpu", Checkpoint { cpu: first.cpu.clone(), ..second.clone() }),
        ("device", Checkpoint { device: first.device, ..second.clone() }),
    ];
    for (component, splice) in splices {
        let error = splice.require(&wanted).unwrap_err();
        assert!(
            matches!(error, CheckpointError::RootMismatch { component: c } if c == component),
            "{component}"
        );
    }
    let log = Checkpoint { input_log: first.input_log.clone(), ..second.clone() };
    assert_ne!(log.input_root(), second.input_root());
    assert_eq!(log.restore(&worker()).unwrap_err().kind(), "SnapshotInvalid");
    assert!(decode(&full_bytes(&log), None).is_err());
}

#[test]
fn a_checkpoint_of_a_machine_that_ran_on_is_refused() {
    let mut recorder = Recorder::start();
    let measurement = recorder.interval(&[1]);
    recorder.execution.feed(work_input(5, 5)).unwrap();
    recorder.execution.run().unwrap();
    let error = Checkpoint::take(&mut recorder.execution, &measurement, &recorder.pages).unwrap_err();
    assert_eq!(error.kind(), "RootMismatch");
}

#[test]
fn another_image_or_platform_is_refused() {
    let mut recorder = Recorder::start();
    let checkpoint = recorder.checkpoint(&[1]);
    let other = crate::image::tests::elf_file::ElfFile::of_text(&[0xeb, 0xfe]).build();
    let other = crate::image::Image::admit(&other).unwrap();
    assert!(matches!(checkpoint.restore(&other), Err(CheckpointError::RootMismatch { component: "image" })));
    // A file that claims another image still has the first one's constants in memory.
    let claims = Checkpoint { image: other.digest(), ..checkpoint.clone() };
    assert_eq!(claims.restore(&other).unwrap_err().kind(), "RootMismatch");
    let elsewhere =
        Checkpoint { platform: quorate_attest::id::PlatformClass::from_bytes([3; 32]), ..checkpoint.clone() };
    assert_eq!(elsewhere.restore(&worker()).unwrap_err().kind(), "PlatformMismatch");
}
