//! What was signed, after kills, failures and copies.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use quorate_attest::encoding::Bounded;
use quorate_signer::protocol::{FromSigner, STATEMENTS_MAX, ToSigner, frame};

use crate::setup::{PROGRAM, Setup, ask, statement};

#[tokio::test]
async fn a_killed_signer_refuses_to_contradict_what_it_signed_and_repeats_it() {
    let mut setup = Setup::new();
    setup.start();
    let client = setup.client();
    let first = client.sign(vec![statement(5, 1)]).await.unwrap();
    assert!(first[0].is_ok());
    setup.kill();
    setup.start();
    assert_eq!(ask(&client, 5, 2).await, "DoubleVote");
    assert_eq!(ask(&client, 4, 1).await, "StaleSlot");
    assert_eq!(client.sign(vec![statement(5, 1)]).await.unwrap(), first);
}

/// The answer that arrived before the kill, if one did.
fn answer_in(mut stream: UnixStream) -> Option<FromSigner> {
    let mut bytes = Vec::new();
    // The other end is dead: this reads what it had sent.
    let _ = stream.read_to_end(&mut bytes);
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().unwrap()) as usize;
    bytes.get(4..4 + length).map(|body| FromSigner::decoded(body).unwrap())
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_request_gets_no_second_statement_signed() {
    let mut setup = Setup::new();
    let (mut answered, mut silent) = (0, 0);
    for round in 0..40u64 {
        setup.start();
        let mut stream = UnixStream::connect(setup.path("run/socket")).unwrap();
        let asked = ToSigner::Sign { statements: vec![statement(round, 1)] };
        stream.write_all(&frame(&asked).unwrap()).unwrap();
        // From at once to long after the answer: a write and a sync take milliseconds at most on most devices.
        let deadline = std::time::Instant::now() + std::time::Duration::from_micros(round * round * 10);
        while std::time::Instant::now() < deadline {
            std::hint::spin_loop();
        }
        setup.kill();
        let signed = matches!(
            answer_in(stream), Some(FromSigner::Signed { signatures }) if signatures[0].is_ok()
        );
        *(if signed { &mut answered } else { &mut silent }) += 1;
        setup.start();
        let client = setup.client();
        let other = ask(&client, round, 2).await;
        assert!(!signed || other == "DoubleVote", "round {round}: the answer had left, and then: {other}");
        let same = ask(&client, round, 1).await;
        assert_ne!(same == "signed", other == "signed", "round {round}: {same} and {other}");
        setup.kill();
    }
    println!("{answered} answers had left, {silent} had not");
    assert_eq!(answered + silent, 40);
}

#[tokio::test]
async fn two_processes_on_one_data_directory_or_one_socket_are_refused() {
    let mut setup = Setup::new();
    setup.start();
    let (code, text) = setup.output(&["run"]);
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains("DataDirLocked"), "{text}");
    // Another directory under the same socket.
    let elsewhere = setup.path("elsewhere");
    let elsewhere = ["--data-dir", elsewhere.to_str().unwrap()];
    assert_eq!(setup.output(&[&elsewhere[..], &["init"]].concat()).0, Some(0));
    let (code, text) = setup.output(&elsewhere);
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains("SocketError") && text.contains("another process listens"), "{text}");
    assert_eq!(ask(&setup.client(), 0, 1).await, "signed", "the first one goes on");
}

#[tokio::test]
async fn missing_empty_and_foreign_sign_state_is_refused_and_init_never_overwrites() {
    let mut setup = Setup::new();
    let log = setup.path("data/sign-log");
    let bytes = std::fs::read(&log).unwrap();
    let (code, text) = setup.output(&["init"]);
    assert!(code == Some(78) && text.contains("AlreadyInitialised"), "{text}");
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
    setup.edit("\"vote.key\"", "\"other.key\"");
    let (code, text) = setup.output(&[]);
    assert!(code == Some(78) && text.contains("SignStateMissing"), "{text}");
    setup.edit("\"other.key\"", "\"vote.key\"");
    for damage in [Some(Vec::new()), Some(vec![0; 4096]), None] {
        match damage {
            Some(bytes) => std::fs::write(&log, bytes).unwrap(),
            None => std::fs::remove_file(&log).unwrap(),
        }
        let (code, text) = setup.output(&[]);
        assert!(code == Some(78) && text.contains("SignStateMissing"), "{text}");
    }
    std::fs::write(&log, bytes).unwrap();
    setup.start();
    assert_eq!(ask(&setup.client(), 0, 1).await, "signed");
}

#[tokio::test]
async fn the_first_storage_error_ends_the_process_with_74_and_promises_stay() {
    let mut setup = Setup::new();
    // Files may not grow past the mebibyte that the sign-log has from the start; the signal of that is ignored, so writes fail.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" --config \"$1\""]);
    limited.arg(PROGRAM).arg(setup.path("signer.toml"));
    setup.start_as(limited);
    let client = setup.client();
    let (mut number, count) = (0, STATEMENTS_MAX as u64);
    loop {
        let statements = (number..number + count).map(|number| statement(number, 1)).collect();
        match client.sign(statements).await {
            Ok(answers) => assert!(answers.iter().all(Result::is_ok)),
            Err(error) => break assert_eq!(error.kind(), "SocketError"),
        }
        number += count;
        assert!(number < 1 << 20, "the limit does not hold");
    }
    assert_eq!(setup.wait(), Some(74));
    assert!(number > 0);
    setup.start();
    assert_eq!(ask(&client, number - 1, 2).await, "DoubleVote");
    assert_eq!(ask(&client, number - 1, 1).await, "signed");
}
