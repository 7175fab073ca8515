//! Files on disk.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_full_checkpoint_reads_back_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("slot-1");
    let mut recorder = Recorder::start();
    let checkpoint = recorder.checkpoint(&[1, 2]);
    checkpoint.write_full(&path).unwrap();
    let read = Checkpoint::read(&path).unwrap();
    assert_eq!(read.measurement(), checkpoint.measurement());
    assert_eq!(read.input_root(), checkpoint.input_root());
    assert_eq!((read.image, read.platform), (checkpoint.image, checkpoint.platform));
    assert_eq!(full_bytes(&read), std::fs::read(&path).unwrap(), "equal states give equal files");
    for index in 0..read.pages.tree().count() {
        assert_eq!(read.pages.page(index), checkpoint.pages.page(index));
    }
}

#[test]
fn a_write_leaves_one_private_file_and_replaces_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("newest");
    let mut recorder = Recorder::start();
    std::fs::write(directory.path().join("newest.partial"), b"left by a crash, longer than nothing").unwrap();
    for seed in 0..3 {
        let checkpoint = recorder.checkpoint(&[seed]);
        checkpoint.write_full(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap().measurement(), checkpoint.measurement());
    }
    let names: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["newest"]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_write_that_fails_keeps_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("slot");
    let mut recorder = Recorder::start();
    let old = recorder.checkpoint(&[1]);
    old.write_full(&path).unwrap();
    let new = recorder.checkpoint(&[2]);
    std::fs::create_dir(directory.path().join("slot.partial")).unwrap();
    let error = new.write_full(&path).unwrap_err();
    assert!(matches!(&error, CheckpointError::Storage { operation: "create", .. }), "{error}");
    assert_eq!(Checkpoint::read(&path).unwrap().measurement(), old.measurement());
    assert_eq!(new.write_full(&directory.path().join("none/slot")).unwrap_err().kind(), "StorageFailed");
    assert_eq!(new.write_full(std::path::Path::new("/")).unwrap_err().kind(), "StorageFailed");
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let mut recorder = Recorder::start();
    let checkpoint = recorder.checkpoint(&[1]);
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("slot.partial")).unwrap();
    let error = checkpoint.write_full(&directory.path().join("slot")).unwrap_err();
    assert_eq!(error.kind(), "StorageFull", "{error}");
    assert!(!directory.path().join("slot").exists());
}

#[test]
fn a_chain_of_differences_reads_back_as_the_last_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = |number: usize| directory.path().join(format!("slot-{number}"));
    let mut recorder = Recorder::start();
    let mut states = vec![recorder.checkpoint(&[])];
    states[0].write_full(&file(0)).unwrap();
    for number in 1..6 {
        let state = recorder.checkpoint(&[number as u64, 77]);
        state.write_incremental(&file(number), states[number - 1].pages.tree()).unwrap();
        states.push(state);
    }
    let files: Vec<_> = (1..6).map(file).collect();
    for number in 0..6 {
        let read = Checkpoint::read_chain(&file(0), &files[..number]).unwrap();
        assert_eq!(read.measurement(), states[number].measurement(), "slot {number}");
        assert_eq!(full_bytes(&read), full_bytes(&states[number]));
    }
    let (full, difference) =
        (std::fs::metadata(file(0)).unwrap().len(), std::fs::metadata(file(3)).unwrap().len());
    assert!(difference < full, "{difference} bytes of difference to {full}");
}

#[test]
fn a_difference_is_refused_where_it_does_not_belong() {
    let directory = tempfile::tempdir().unwrap();
    let (full, difference) = (directory.path().join("full"), directory.path().join("difference"));
    let mut recorder = Recorder::start();
    let (first, second, third) =
        (recorder.checkpoint(&[1]), recorder.checkpoint(&[2]), recorder.checkpoint(&[3]));
    second.write_full(&full).unwrap();
    third.write_incremental(&difference, second.pages.tree()).unwrap();

    let field = |error: CheckpointError| match error {
        CheckpointError::SnapshotInvalid { field, .. } => field,
        CheckpointError::RootMismatch { component } => component,
        other => panic!("{other}"),
    };
    assert_eq!(field(Checkpoint::read(&difference).unwrap_err()), "kind");
    assert_eq!(field(Checkpoint::read_incremental(&full, &first).unwrap_err()), "kind");
    assert_eq!(field(Checkpoint::read_incremental(&difference, &first).unwrap_err()), "parent");
    let mut other_image = second.clone();
    other_image.image = quorate_attest::id::ImageDigest::from_bytes([1; 32]);
    assert_eq!(field(Checkpoint::read_incremental(&difference, &other_image).unwrap_err()), "image");
    let mut later = second.clone();
    later.device.inputs = 1000;
    assert_eq!(field(Checkpoint::read_incremental(&difference, &later).unwrap_err()), "inputs");
    assert!(Checkpoint::read_incremental(&difference, &second).is_ok());
}

#[test]
fn a_page_that_became_zero_is_in_the_difference_without_contents() {
    let mut recorder = Recorder::start();
    let parent = recorder.checkpoint(&[1]);
    let gone = parent.pages.tree().nonzero().last().unwrap();
    let mut child = parent.clone();
    let mut tree = child.pages.tree().clone();
    tree.update(&[(gone, crate::page_tree::ZERO_LEAF)]);
    child.pages = child.pages.advanced_to(tree);
    let bytes = incremental_bytes(&child, &parent);
    assert_eq!(bytes.len(), seal_at(&bytes) + SEAL_BYTES);
    let read = decode(&bytes, Some(&parent)).unwrap();
    assert_eq!(read.pages.page(gone), Some(&[0; 4096]));
    assert_eq!(read.measurement(), child.measurement());
}

#[test]
fn reading_what_is_no_regular_file_is_refused() {
    assert_eq!(Checkpoint::read(std::path::Path::new("/")).unwrap_err().kind(), "SnapshotInvalid");
    assert_eq!(Checkpoint::read(std::path::Path::new("/dev/zero")).unwrap_err().kind(), "SnapshotInvalid");
    assert_eq!(Checkpoint::read(std::path::Path::new("/none/there")).unwrap_err().kind(), "StorageFailed");
}
