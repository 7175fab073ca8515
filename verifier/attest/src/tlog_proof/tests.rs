use super::*;
use crate::merkle::inclusion_proof;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;

const ORIGIN: &str = "quorate.example/uid";
const NOTE: &str = "quorate.example/uid
7
QXeVAbvRI4jeT9lMS8JxInZ3cnpJdirNvoJufTAahNU=

— quorate.example/uid 5RpDaEMdaozF7qdHvT5aOg0pO8mCeCey/DFehdjA2HHTSu4o6mJqBsa/8aO31SAHVcfkfoF0xuUPilQ4D8hm0ISA6gg=
— quorate.example/replica-0 WhJ1OQAAAABlU/EAoDG1wR8u4c15DfQMEZtzz8FjaU9h1wgT/lIqCdabNEUZJSJSB1vQJoFFV8dGn151DYq2rN+MYSyGUXwyynlyBQ==
— quorate.example/replica-1 Z+40IQAAAABlU/EA5aYkyr8RCi5mv9SOYO1k9QRAdQ/DFPHWa8mHZ3uTqqJyY4ISK/qvFOsAWg10UsXtxH8kbjR1xdn5flPFsf+0Dg==
";
const POLICY: &str = "log quorate.example/uid+e51a4368+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea
witness r0 quorate.example/replica-0+5a127539+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea
witness r1 quorate.example/replica-1+67ee3421+BD1AF8PoQ4lakrcKp00bfrycmCzPLsSWjMDNVfEq9GYM
group g 2 r0 r1
quorum g
";

fn policy() -> Policy {
    Policy::parse(POLICY.as_bytes()).unwrap()
}

fn proof(index: u64, extra: Option<Vec<u8>>) -> TlogProof {
    let leaves: Vec<_> = (0..7).map(|op| Sha256Tree::leaf(format!("op-{op}").as_bytes())).collect();
    let path = inclusion_proof::<Sha256Tree>(&leaves, index).unwrap();
    TlogProof { extra, index, path, checkpoint: Note::parse(NOTE).unwrap() }
}

#[test]
fn test_each_entry_of_the_vector_verifies_offline() {
    for index in 0..7 {
        let text = proof(index, None).to_string();
        let parsed = TlogProof::parse(&text).unwrap();
        assert_eq!(parsed, proof(index, None));
        let accepted = parsed.verify(ORIGIN, format!("op-{index}").as_bytes(), &policy()).unwrap();
        assert_eq!((accepted.checkpoint.size(), accepted.witnesses.len()), (7, 2));
    }
}

#[test]
fn test_proof_file_of_index_6_is_byte_for_byte_this() {
    let expected = format!(
        "c2sp.org/tlog-proof@v1\nextra aGk=\nindex 6\n\
         FyaVOxYotJ9jghZh5dmjwjGHL/adHsDAbvdFW2y3p9g=\n\
         S/T8rfJB1iemL4GHTaLB6Ajt5SuQPQFfgShMYZnjLBc=\n\n{NOTE}"
    );
    let proof = proof(6, Some(b"hi".to_vec()));
    assert_eq!(proof.to_string(), expected);
    assert_eq!(expected.parse::<TlogProof>(), Ok(proof));
}

#[test]
fn test_another_leaf_index_path_or_origin_is_refused() {
    let good = proof(3, None);
    let verify = |proof: &TlogProof, origin: &str, leaf: &str| {
        proof.verify(origin, leaf.as_bytes(), &policy()).map(|_| ()).map_err(|error| error.kind())
    };
    assert_eq!(verify(&good, ORIGIN, "op-3"), Ok(()));
    assert_eq!(verify(&good, ORIGIN, "op-4"), Err("ProofInvalid"));
    assert_eq!(verify(&good, "quorate.example/other", "op-3"), Err("WrongVm"));
    assert_eq!(verify(&TlogProof { index: 4, ..good.clone() }, ORIGIN, "op-3"), Err("ProofInvalid"));
    assert_eq!(verify(&TlogProof { index: 7, ..good.clone() }, ORIGIN, "op-3"), Err("ProofInvalid"));
    assert_eq!(verify(&TlogProof { path: vec![], ..good.clone() }, ORIGIN, "op-3"), Err("ProofInvalid"));
    let mut swapped = good;
    swapped.path.swap(0, 1);
    assert_eq!(verify(&swapped, ORIGIN, "op-3"), Err("ProofInvalid"));
}

#[test]
fn test_proof_without_a_quorum_of_cosigners_is_refused() {
    let mut proof = proof(0, None);
    let lines = proof.checkpoint.lines()[..2].to_vec();
    proof.checkpoint = Note::new(proof.checkpoint.text(), lines).unwrap();
    let error = proof.verify(ORIGIN, b"op-0", &policy()).unwrap_err();
    assert_eq!(error.kind(), "QuorumNotReached");
}

#[test]
fn test_malformed_proof_files_are_refused() {
    let good = proof(6, Some(vec![1])).to_string();
    let hash = "FyaVOxYotJ9jghZh5dmjwjGHL/adHsDAbvdFW2y3p9g=\n";
    let cases = [
        good.replace("@v1", "@v2"),
        good.replace("index 6", "index 06"),
        good.replace("index 6", "index -6"),
        good.replace("index 6\n", ""),
        good.replace("extra AQ==", "extra AR=="),
        good.replace("extra AQ==", "extra AQ"),
        good.replace("extra AQ==", "extra AQ==\nextra AQ=="),
        good.replace(hash, &hash[1..]),
        good.replace(hash, &format!("{}\r\n", &hash[..44])),
        good.replace("\n\nquorate", "\nquorate"),
        good.replacen("c2sp", " c2sp", 1),
        "c2sp.org/tlog-proof@v1\nindex 0\n\n".to_string(),
        String::new(),
    ];
    for case in cases {
        assert_eq!(TlogProof::parse(&case).map_err(|e| e.kind()), Err("DecodeError"), "{case}");
    }
    let long = good.replace(hash, &hash.repeat(PATH_LIMIT + 1));
    assert_eq!(TlogProof::parse(&long).map_err(|e| e.kind()), Err("MessageTooLarge"));
    assert!(TlogProof::parse(&good.replace(hash, &hash.repeat(PATH_LIMIT - 1))).is_ok());
    let huge = "x".repeat(PROOF_FILE_LIMIT + 1);
    assert_eq!(TlogProof::parse(&huge).map_err(|e| e.kind()), Err("MessageTooLarge"));
}

#[test]
fn test_every_truncation_of_a_proof_file_is_refused_or_lacks_a_signature() {
    let text = proof(5, Some(vec![9; 40])).to_string();
    for length in (0..text.len()).filter(|length| text.is_char_boundary(*length)) {
        if let Ok(proof) = TlogProof::parse(&text[..length]) {
            assert!(proof.verify(ORIGIN, b"op-5", &policy()).is_err(), "cut at {length}");
        }
    }
}

proptest! {
    #[test]
    fn test_proof_parser_never_panics_and_writes_back_what_it_read(
        head in "(c2sp.org/tlog-proof@v1|extra|index|[0-9]|A{43}=|AA==| |\n){0,20}",
    ) {
        for text in [head.clone(), format!("{HEADER}\n{head}\n\n{NOTE}")] {
            if let Ok(proof) = TlogProof::parse(&text) {
                prop_assert_eq!(proof.to_string(), text);
            }
        }
    }
}
