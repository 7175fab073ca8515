use super::*;
use crate::checkpoint::Checkpoint;
use crate::cosignature::{TIMESTAMP_MAX, cosign};
use crate::id::from_hex;
use alloc::vec;
use proptest::prelude::*;

pub(crate) const NOTE: &str = "quorate.example/uid
7
QXeVAbvRI4jeT9lMS8JxInZ3cnpJdirNvoJufTAahNU=

— quorate.example/uid 5RpDaEMdaozF7qdHvT5aOg0pO8mCeCey/DFehdjA2HHTSu4o6mJqBsa/8aO31SAHVcfkfoF0xuUPilQ4D8hm0ISA6gg=
— quorate.example/replica-0 WhJ1OQAAAABlU/EAoDG1wR8u4c15DfQMEZtzz8FjaU9h1wgT/lIqCdabNEUZJSJSB1vQJoFFV8dGn151DYq2rN+MYSyGUXwyynlyBQ==
— quorate.example/replica-1 Z+40IQAAAABlU/EA5aYkyr8RCi5mv9SOYO1k9QRAdQ/DFPHWa8mHZ3uTqqJyY4ISK/qvFOsAWg10UsXtxH8kbjR1xdn5flPFsf+0Dg==
";
pub(crate) const VKEYS: [&str; 3] = [
    "quorate.example/uid+e51a4368+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea",
    "quorate.example/replica-0+5a127539+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea",
    "quorate.example/replica-1+67ee3421+BD1AF8PoQ4lakrcKp00bfrycmCzPLsSWjMDNVfEq9GYM",
];
const TIME: u64 = 1_700_000_000;

pub(crate) fn vkeys() -> Vec<VerifierKey> {
    VKEYS.iter().map(|text| text.parse().unwrap()).collect()
}

/// The keys of RFC 8032, section 7.1, tests 1 and 2.
fn secrets() -> [SecretKey; 2] {
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    ]
    .map(|seed| SecretKey::from_seed(from_hex("seed", seed).unwrap()))
}

#[test]
fn test_note_vector_of_the_specification_verifies_with_its_vkeys() {
    let note = Note::parse(NOTE).unwrap();
    assert_eq!(note.to_string(), NOTE);
    let verified = note.verify(&vkeys()).unwrap();
    let expected = [(0, None), (1, Some(TIME)), (2, Some(TIME))];
    assert_eq!(verified, expected.map(|(key, timestamp)| VerifiedLine { key, timestamp }));
}

#[test]
fn test_note_vector_of_the_specification_is_what_we_sign() {
    let [first, second] = secrets();
    let vectors = Note::parse(NOTE).unwrap();
    let checkpoint = Checkpoint::parse(vectors.text()).unwrap();
    let lines = vec![
        SignatureLine::sign("quorate.example/uid", &first, vectors.text()).unwrap(),
        cosign("quorate.example/replica-0", &first, TIME, &checkpoint).unwrap(),
        cosign("quorate.example/replica-1", &second, TIME, &checkpoint).unwrap(),
    ];
    assert_eq!(Note::new(vectors.text(), lines).unwrap().to_string(), NOTE);
}

#[test]
fn test_vkeys_of_the_specification_are_what_we_write() {
    let [first, second] = secrets();
    let keys = [
        VerifierKey::new("quorate.example/uid", KeyType::Ed25519, first.public()),
        VerifierKey::new("quorate.example/replica-0", KeyType::Cosignature, first.public()),
        VerifierKey::new("quorate.example/replica-1", KeyType::Cosignature, second.public()),
    ];
    for (made, text) in keys.into_iter().zip(VKEYS) {
        assert_eq!(made.unwrap().to_string(), text);
    }
}

#[test]
fn test_note_of_the_go_implementation_verifies() {
    // The example of golang.org/x/mod/sumdb/note, and the key of the Go checksum database.
    let note = "If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
";
    let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let verified = Note::parse(note).unwrap().verify(&[key.parse().unwrap()]).unwrap();
    assert_eq!(verified, [VerifiedLine { key: 0, timestamp: None }]);
    let key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    assert_eq!(key.parse::<VerifierKey>().unwrap().to_string(), key);
}

#[test]
fn test_vkey_with_another_id_name_type_or_small_order_key_is_refused() {
    let text = VKEYS[1];
    let identity = "BAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let cases = [
        text.replace("5a127539", "5a127538"),
        text.replace("5a127539", "5A127539"),
        text.replace("replica-0", "replica-2"),
        text.replace("+BNd", "+Add"),
        text.replace("+BNd", "+Btd"),
        text[..text.len() - 1].to_string(),
        format!("{text}="),
        format!("{text}AAAA"),
        format!("x+00000000+{identity}"),
        "x+00000000+".to_string(),
        "name+5a127539".to_string(),
        "+5a127539+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea".to_string(),
        String::new(),
    ];
    for case in cases {
        assert_eq!(case.parse::<VerifierKey>().map_err(|e| e.kind()), Err("DecodeError"), "{case}");
    }
}

#[test]
fn test_bad_line_of_a_known_key_refuses_the_whole_note_and_of_an_unknown_key_is_ignored() {
    let keys = vkeys();
    let mut note = Note::parse(NOTE).unwrap();
    note.lines[2].signature[71] ^= 0x40;
    let error = note.verify(&keys).unwrap_err();
    assert!(error.to_string().contains("replica-1"), "{error}");
    assert!(["BadSignature", "SignatureNonCanonical"].contains(&error.kind()));
    assert_eq!(note.verify(&keys[..2]).unwrap().len(), 2);
    // A known name with another id, and a known id with another name, are unknown keys.
    note.lines[2].key_id[0] ^= 1;
    assert_eq!(note.verify(&keys).unwrap().len(), 2);
    note.lines[2].key_id[0] ^= 1;
    note.lines[2].name.push('x');
    assert_eq!(note.verify(&keys).unwrap().len(), 2);
}

#[test]
fn test_line_listed_twice_counts_once() {
    let mut note = Note::parse(NOTE).unwrap();
    let again = note.lines[1].clone();
    note.lines.push(again);
    assert_eq!(note.verify(&vkeys()).unwrap().len(), 3);
}

#[test]
fn test_cosignature_for_another_head_origin_or_time_is_refused() {
    let keys = vkeys();
    for (from, to) in [("uid\n7\n", "uid\n8\n"), ("uid\n7", "uie\n7"), ("\nQXeV", "\nQXeW")] {
        let note = Note::parse(&NOTE.replacen(from, to, 1)).unwrap();
        assert_eq!(note.verify(&keys[1..2]).map_err(|e| e.kind()), Err("BadSignature"), "{to:?}");
    }
    let mut note = Note::parse(NOTE).unwrap();
    note.lines[1].signature[7] ^= 1;
    assert_eq!(note.verify(&keys[1..2]).map_err(|e| e.kind()), Err("BadSignature"));
    note.lines[1].signature[0] = 0x80;
    assert_eq!(note.verify(&keys[1..2]).map_err(|e| e.kind()), Err("DecodeError"));
    note.lines[1].signature.pop();
    assert_eq!(note.verify(&keys[1..2]).map_err(|e| e.kind()), Err("DecodeError"));
    let checkpoint = Checkpoint::new("o", 1, [0; 32]).unwrap();
    assert!(cosign("a", &secrets()[0], TIMESTAMP_MAX + 1, &checkpoint).is_err());
    assert!(cosign("a", &secrets()[0], TIMESTAMP_MAX, &checkpoint).is_ok());
}

#[test]
fn test_note_signature_is_no_cosignature_and_vice_versa() {
    let [first, _] = secrets();
    let text = "o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let checkpoint = Checkpoint::parse(text).unwrap();
    let note_key = VerifierKey::new("a", KeyType::Ed25519, first.public()).unwrap();
    let cosigner = VerifierKey::new("a", KeyType::Cosignature, first.public()).unwrap();
    assert_ne!(note_key.id(), cosigner.id());
    let mut line = SignatureLine::sign("a", &first, text).unwrap();
    assert!(note_key.owns(&line) && !cosigner.owns(&line));
    assert_eq!(cosigner.verify(text, &line).map_err(|e| e.kind()), Err("SignerNotMember"));
    line.key_id = cosigner.id();
    line.signature = [&[0u8; 8][..], &line.signature].concat();
    assert_eq!(cosigner.verify(text, &line).map_err(|e| e.kind()), Err("BadSignature"));
    let mut line = cosign("a", &first, 0, &checkpoint).unwrap();
    line.key_id = note_key.id();
    line.signature.drain(..8);
    assert_eq!(note_key.verify(text, &line).map_err(|e| e.kind()), Err("BadSignature"));
    assert!(cosigner.verify("not a checkpoint\n", &cosign("a", &first, 0, &checkpoint).unwrap()).is_err());
}

#[test]
fn test_assembler_is_not_poisoned_by_a_bad_line() {
    let note = Note::parse(NOTE).unwrap();
    let mut assembler = Assembler::new(note.text(), vkeys()).unwrap();
    assert!(assembler.note().is_err(), "a note without lines");
    let mut bad = note.lines[1].clone();
    bad.signature[20] ^= 1;
    let error = assembler.add(bad.clone()).unwrap_err();
    assert!(error.to_string().contains("replica-0"), "{error}");
    assert_eq!(assembler.add(note.lines[1].clone()), Ok(1));
    assert_eq!(assembler.add(note.lines[1].clone()).map_err(|e| e.kind()), Err("DuplicateSigner"));
    assert_eq!(assembler.add(bad).map_err(|e| e.kind()), Err("DuplicateSigner"));
    let stranger = SignatureLine::sign("stranger", &secrets()[1], note.text()).unwrap();
    assert_eq!(assembler.add(stranger).map_err(|e| e.kind()), Err("SignerNotMember"));
    assert_eq!(assembler.add(note.lines[2].clone()), Ok(2));
    assert_eq!(assembler.note().unwrap().verify(&vkeys()).unwrap().len(), 2);
}

#[test]
fn test_sixteen_signature_lines_are_accepted_and_too_many_refused() {
    let line = Note::parse(NOTE).unwrap().lines[1].clone();
    assert!(Note::new("a\n", vec![line.clone(); 16]).is_ok());
    assert!(Note::new("a\n", vec![line.clone(); LINES_LIMIT]).is_ok());
    let error = Note::new("a\n", vec![line.clone(); LINES_LIMIT + 1]).unwrap_err();
    assert_eq!(error.kind(), "MessageTooLarge");
    let mut text = String::from("a\n\n");
    (0..=LINES_LIMIT).for_each(|_| text.push_str(&format!("{line}\n")));
    assert_eq!(Note::parse(&text).unwrap_err().kind(), "MessageTooLarge");
    let huge = "x".repeat(NOTE_LIMIT + 1);
    assert_eq!(Note::parse(&huge).unwrap_err().kind(), "MessageTooLarge");
}

#[test]
fn test_text_may_have_empty_lines_and_ends_before_the_last_one() {
    let line = Note::parse(NOTE).unwrap().lines[0].clone();
    for text in ["a\n\nb\n", "a\n\n", "\n", "— x AAAAAAA=\n"] {
        let note = Note::new(text, vec![line.clone()]).unwrap();
        assert_eq!(Note::parse(&note.to_string()), Ok(note), "{text:?}");
    }
}

#[test]
fn test_malformed_notes_are_refused() {
    let line = "— a AAAAAAA=\n";
    assert!(Note::parse(&format!("t\n\n{line}")).is_ok());
    let cases = [
        String::new(),
        "\n".to_string(),
        "t\n".to_string(),
        "t\n\n".to_string(),
        format!("t\n{line}"),
        format!("\n\n\n{}", "— a\n"),
        format!("t\n\n{}", line.trim_end()),
        format!("t\n\n{line}x\n"),
        format!("t\r\n\n{line}"),
        format!("t\0\n\n{line}"),
        "t\n\n- a AAAAAAA=\n".to_string(),
        "t\n\n— a AAAA\n".to_string(),
        "t\n\n— a AAAAAA==\n".to_string(),
        "t\n\n— a AAAAAAB=\n".to_string(),
        "t\n\n— a AAAAAAA\n".to_string(),
        "t\n\n— a  AAAAAAA=\n".to_string(),
        "t\n\n—  AAAAAAA=\n".to_string(),
        "t\n\n— a+b AAAAAAA=\n".to_string(),
        "t\n\n— a\u{2003}b AAAAAAA=\n".to_string(),
        "t\n\n— a AAAAAAA= \n".to_string(),
    ];
    for case in cases {
        assert_eq!(Note::parse(&case).map_err(|e| e.kind()), Err("DecodeError"), "{case:?}");
    }
}

#[test]
fn test_every_truncation_and_flipped_byte_of_a_note_is_refused_or_says_something_else() {
    let original = Note::parse(NOTE).unwrap();
    for length in (0..NOTE.len()).filter(|length| NOTE.is_char_boundary(*length)) {
        if let Ok(note) = Note::parse(&NOTE[..length]) {
            assert!(note.lines.len() < original.lines.len(), "cut at {length}");
        }
    }
    for at in 0..NOTE.len() {
        let mut bytes = NOTE.as_bytes().to_vec();
        bytes[at] ^= 1;
        let Ok(text) = core::str::from_utf8(&bytes) else { continue };
        let Ok(note) = Note::parse(text) else { continue };
        assert_ne!(note, original, "byte {at}");
        assert!(note.verify(&vkeys()).map_or(true, |lines| lines.len() < 3), "byte {at}");
    }
}

proptest! {
    #[test]
    fn test_note_parser_never_panics_and_writes_back_what_it_read(text in "(?s)[a\n —+=A0é]{0,80}") {
        if let Ok(note) = Note::parse(&text) {
            prop_assert_eq!(note.to_string(), text);
        }
    }

    #[test]
    fn test_vkey_and_line_parsers_never_panic(text in "(?s).{0,120}", near in "— [a-z+ ]{0,8}[A-Za-z0-9+/=]{0,24}") {
        for text in [text, near] {
            if let Ok(key) = text.parse::<VerifierKey>() {
                prop_assert_eq!(key.to_string(), text.clone());
            }
            if let Ok(line) = text.parse::<SignatureLine>() {
                prop_assert_eq!(line.to_string(), text.clone());
            }
        }
    }
}
