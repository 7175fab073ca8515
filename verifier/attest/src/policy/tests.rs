use super::*;
use crate::key::SecretKey;
use crate::note::SignatureLine;
use crate::{checkpoint::Checkpoint, cosignature::cosign};
use alloc::vec;
use proptest::prelude::*;

const NOTE: &str = "quorate.example/uid
7
QXeVAbvRI4jeT9lMS8JxInZ3cnpJdirNvoJufTAahNU=

— quorate.example/uid 5RpDaEMdaozF7qdHvT5aOg0pO8mCeCey/DFehdjA2HHTSu4o6mJqBsa/8aO31SAHVcfkfoF0xuUPilQ4D8hm0ISA6gg=
— quorate.example/replica-0 WhJ1OQAAAABlU/EAoDG1wR8u4c15DfQMEZtzz8FjaU9h1wgT/lIqCdabNEUZJSJSB1vQJoFFV8dGn151DYq2rN+MYSyGUXwyynlyBQ==
— quorate.example/replica-1 Z+40IQAAAABlU/EA5aYkyr8RCi5mv9SOYO1k9QRAdQ/DFPHWa8mHZ3uTqqJyY4ISK/qvFOsAWg10UsXtxH8kbjR1xdn5flPFsf+0Dg==
";
const LOG: &str = "quorate.example/uid+e51a4368+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const R0: &str = "quorate.example/replica-0+5a127539+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
const R1: &str = "quorate.example/replica-1+67ee3421+BD1AF8PoQ4lakrcKp00bfrycmCzPLsSWjMDNVfEq9GYM";

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text.as_bytes())
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn witness(number: u8) -> VerifierKey {
    VerifierKey::new(&format!("w{number}.example"), KeyType::Cosignature, secret(number).public()).unwrap()
}

/// Witness lines `w0` to `w<count - 1>`.
fn witnesses(count: u8) -> String {
    (0..count).map(|number| format!("witness w{number} {}\n", witness(number))).collect()
}

fn note_by(signers: &[u8]) -> Note {
    let checkpoint = Checkpoint::new("log.example", 3, [7; 32]).unwrap();
    let log = SignatureLine::sign("log.example", &secret(200), &checkpoint.to_text()).unwrap();
    let cosigned = signers
        .iter()
        .map(|number| cosign(witness(*number).name(), &secret(*number), 5, &checkpoint).unwrap());
    Note::new(&checkpoint.to_text(), [log].into_iter().chain(cosigned).collect()).unwrap()
}

#[test]
fn test_policy_accepts_the_note_vector_of_the_specification() {
    let text = format!("log {LOG}\nwitness r0 {R0}\nwitness r1 {R1}\ngroup g 2 r0 r1\nquorum g\n");
    let accepted = parse(&text).unwrap().evaluate(&Note::parse(NOTE).unwrap()).unwrap();
    assert_eq!(accepted.checkpoint.size(), 7);
    assert_eq!(accepted.log.as_deref(), Some("quorate.example/uid"));
    let times: Vec<_> = accepted.witnesses.iter().map(|witness| witness.timestamp).collect();
    assert_eq!(times, [1_700_000_000; 2]);
}

#[test]
fn test_quorum_of_two_levels_of_groups_counts_as_written() {
    let text = format!(
        "{}group x 2 w0 w1 w2\ngroup y any w3 w4 w5\ngroup both all x y\nquorum both\n",
        witnesses(6)
    );
    let policy = parse(&text).unwrap();
    for mask in 0u8..64 {
        let signers: Vec<u8> = (0..6).filter(|bit| mask >> bit & 1 == 1).collect();
        let enough = (mask & 7).count_ones() >= 2 && mask >> 3 != 0;
        let verdict = policy.evaluate(&note_by(&signers)).map(|accepted| accepted.witnesses.len());
        match verdict {
            Ok(count) => assert!(enough && count == signers.len(), "{mask:06b}"),
            Err(error) => {
                assert!(!enough, "{mask:06b}");
                assert_eq!(error, PolicyError::QuorumNotReached { got: signers.len() });
                assert_eq!(error.kind(), "QuorumNotReached");
            }
        }
    }
}

#[test]
fn test_one_cosigner_listed_twice_in_a_note_counts_once() {
    let policy = parse(&format!("{}group g 2 w0 w1\nquorum g\n", witnesses(2))).unwrap();
    let note = note_by(&[0, 0, 0]);
    assert_eq!(policy.evaluate(&note), Err(PolicyError::QuorumNotReached { got: 1 }));
}

#[test]
fn test_bad_line_of_a_trusted_key_refuses_the_note_even_with_a_quorum_of_others() {
    let policy = parse(&format!("{}group g 2 w0 w1 w2\nquorum g\n", witnesses(3))).unwrap();
    let note = note_by(&[0, 1, 2]);
    let mut lines = note.lines().to_vec();
    lines[3].signature[9] ^= 1;
    let poisoned = Note::new(note.text(), lines).unwrap();
    let error = policy.evaluate(&poisoned).unwrap_err();
    assert!(["BadSignature", "SignatureNonCanonical"].contains(&error.kind()), "{error}");
}

#[test]
fn test_log_must_be_trusted_and_own_the_origin() {
    let log = VerifierKey::new("log.example", KeyType::Ed25519, secret(200).public()).unwrap();
    let other = VerifierKey::new("log.example", KeyType::Ed25519, secret(201).public()).unwrap();
    let note = note_by(&[]);
    assert!(parse(&format!("log {log}\nquorum none\n")).unwrap().evaluate(&note).is_ok());
    let error = parse(&format!("log {other}\nquorum none\n")).unwrap().evaluate(&note).unwrap_err();
    assert_eq!(error.kind(), "SignerNotMember");
    // A trusted log that signs the head of another origin does not make it trusted.
    let checkpoint = Checkpoint::new("victim.example", 3, [7; 32]).unwrap();
    let line = SignatureLine::sign("log.example", &secret(200), &checkpoint.to_text()).unwrap();
    let foreign = Note::new(&checkpoint.to_text(), vec![line]).unwrap();
    let error = parse(&format!("log {log}\nquorum none\n")).unwrap().evaluate(&foreign).unwrap_err();
    assert_eq!(error, PolicyError::LogNotTrusted { origin: "victim.example".into() });
}

#[test]
fn test_blank_lines_comments_tabs_urls_and_opaque_names_are_accepted() {
    let text = format!(
        "# comment\n\n  \t\n\t# indented\n log\t{LOG}  https://log.example \nwitness r\u{e9} {R0} https://x\n\
         group \u{212a} any r\u{e9}\nquorum \u{212a}"
    );
    assert!(parse(&text).unwrap().evaluate(&Note::parse(NOTE).unwrap()).is_ok());
    let mut bytes = b"witness \xff ".to_vec();
    bytes.extend_from_slice(format!("{R0}\nquorum \u{fe}\n").as_bytes());
    assert!(Policy::parse(&bytes).is_err(), "another opaque name");
    let text = [&b"witness \xff "[..], R0.as_bytes(), b"\nquorum \xff\n"].concat();
    assert!(Policy::parse(&text).is_ok());
}

#[test]
fn test_malformed_policies_are_refused_with_the_line_number() {
    let two = witnesses(2);
    let cases = [
        (String::new(), 0),
        ("quorum none\nquorum none\n".into(), 2),
        ("quorum none extra\n".into(), 1),
        ("quorum g\n".into(), 1),
        ("quorum\n".into(), 1),
        ("frobnicate\n".into(), 1),
        (format!("{two}group g 0 w0 w1\nquorum g\n"), 3),
        (format!("{two}group g 3 w0 w1\nquorum g\n"), 3),
        (format!("{two}group g 01 w0 w1\nquorum g\n"), 3),
        (format!("{two}group g +1 w0 w1\nquorum g\n"), 3),
        (format!("{two}group g 18446744073709551617 w0\nquorum g\n"), 3),
        (format!("{two}group g any\nquorum g\n"), 3),
        (format!("{two}group g any g\nquorum g\n"), 3),
        (format!("{two}group g any later\ngroup later any w0\nquorum g\n"), 3),
        (format!("{two}group g 2 w0 w0\nquorum g\n"), 3),
        (format!("{two}group g any w0\ngroup h any w0\nquorum h\n"), 4),
        (format!("{two}group w0 any w1\nquorum w0\n"), 3),
        (format!("{two}group none any w1\nquorum none\n"), 3),
        (format!("{two}group g any none\nquorum g\n"), 3),
        (format!("{two}witness w9 {}\nquorum w9\n", witness(0)), 3),
        (format!("log {LOG}\nlog {LOG}\nquorum none\n"), 2),
        (format!("witness r0 {LOG}\nquorum r0\n"), 1),
        (format!("witness r0 {}\nquorum r0\n", &R0[1..]), 1),
        (format!("witness r0 {R0}\r\nquorum r0\n"), 1),
        ("quorum none\n# bell \u{7}\n".into(), 2),
    ];
    for (text, line) in cases {
        match parse(&text) {
            Err(PolicyError::Malformed { line: at, .. }) => assert_eq!(at, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(parse(&"#".repeat(POLICY_LIMIT + 1)).unwrap_err().kind(), "BadConfig");
}

#[test]
fn test_group_threshold_cannot_be_reached_by_counting_one_witness_through_two_groups() {
    let text = format!("{}group a any w0\ngroup b any w0 w1\ngroup g all a b\nquorum g\n", witnesses(2));
    assert!(parse(&text).is_err());
}

#[test]
fn test_thirty_two_logs_witnesses_and_groups_are_supported() {
    let mut text = witnesses(32);
    for number in 0..32u8 {
        let log = VerifierKey::new("log.example", KeyType::Ed25519, secret(100 + number).public()).unwrap();
        text.push_str(&format!("log {log}\ngroup g{number} any w{number}\n"));
    }
    text.push_str("quorum g31\n");
    assert!(parse(&text).is_ok());
    let mut text = String::new();
    for number in 0..=ENTRIES_LIMIT {
        text.push_str(&format!("group g{number} any w{number}\n"));
    }
    assert!(parse(&text).is_err());
}

proptest! {
    #[test]
    fn test_policy_parser_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        words in "(log|witness|group|quorum|none|any|all|[0-9a-c]| |\n){0,40}",
    ) {
        let _ = Policy::parse(&bytes);
        let _ = Policy::parse(words.as_bytes());
    }
}
