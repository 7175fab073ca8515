//! The proofs of answers.

use std::fs;
use std::sync::Arc;

use quorate_attest::encoding::Bounded;
use quorate_gateway::backend::{Backend, Freshness, Shared};
use quorate_gateway::proofs::{Proofs, Recorded};
use quorate_registry::{op, record_key};
use quorate_services::{AnswerProof, Claim};

use crate::fixture::{key, operate, register, registry};

#[tokio::test]
async fn proof_of_every_answer_is_kept_before_it_is_given_and_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let proofs = Arc::new(Proofs::open(folder.path(), 3).unwrap());
    let registry = registry();
    operate(&registry, &key(1), &register(b"a", b"1"));
    let recorded = Recorded::new("registry", registry as Shared, Arc::clone(&proofs));
    assert!(proofs.newest().is_none());
    for _ in 0..4 {
        recorded.get(&record_key(b"a"), Freshness::Linearizable).await.unwrap();
        recorded.range(&record_key(b""), &record_key(b"z"), 8, Freshness::Newest).await.unwrap();
    }
    let called = recorded.call(op::LOOKUP, b"\x01\x00\x00\x00a".to_vec()).await.unwrap();
    assert_eq!(called.status, 0);
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let number = called.number;
    assert_eq!(
        names,
        [
            "000000000006-registry-1.answer",
            "000000000007-registry-1.answer",
            &format!("000000000008-registry-{number}.answer"),
        ]
    );
    let newest = fs::read(folder.path().join(&names[2])).unwrap();
    assert_eq!(proofs.newest().unwrap().as_slice(), newest);
    let read = AnswerProof::decoded(&fs::read(folder.path().join(&names[0])).unwrap()).unwrap();
    assert!(matches!(read.claim, Claim::State { .. }));
    assert_eq!(AnswerProof::decoded(&newest).unwrap(), *called.proof);
}

#[tokio::test]
async fn proofs_of_an_earlier_run_count_and_files_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry();
    let read = registry.get(b"\x01c", Freshness::Newest).await.unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let first = Proofs::open(folder.path(), 2).unwrap();
    first.keep("registry", &read.proof).unwrap();
    first.keep("registry", &read.proof).unwrap();
    let second = Proofs::open(folder.path(), 2).unwrap();
    assert!(second.newest().is_none(), "nothing was answered yet");
    second.keep("uid", &read.proof).unwrap();
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["000000000001-registry-0.answer", "000000000002-uid-0.answer", "notes.txt"]);
}
