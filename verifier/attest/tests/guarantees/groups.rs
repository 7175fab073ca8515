use crate::fixtures::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::{GroupConfig, Host, MEMBERS_LIMIT};
use quorate_attest::id::Epoch;
use quorate_attest::possession::{Possession, Role};

#[test]
fn test_valid_groups_of_all_table_sizes_have_the_quorum_of_the_table() {
    for (n, f, quorum) in [(1, 0, 1), (4, 1, 3), (5, 1, 4), (7, 2, 5), (10, 3, 7), (13, 4, 9), (64, 21, 43)] {
        let group = group(n, f);
        assert_eq!(group.validate(), Ok(()));
        assert_eq!(group.rule().unwrap().quorum(), quorum);
        assert_eq!(GroupConfig::decode(&to_bytes(&group)), Ok(group));
    }
}

#[test]
fn test_one_key_under_two_indices_is_refused_when_the_group_is_made() {
    let mut doubled = group(4, 1);
    doubled.members[3].vote_key = doubled.members[1].vote_key;
    assert_eq!(doubled.validate().map_err(|e| e.kind()), Err("DuplicateSigner"));
    assert_eq!(GroupConfig::decode(&to_bytes(&doubled)).map_err(|e| e.kind()), Err("DuplicateSigner"));
}

#[test]
fn test_one_key_in_two_roles_is_refused() {
    let cases: [fn(&mut GroupConfig); 7] = [
        |group| group.members[0].cosigner_key = group.members[0].vote_key,
        |group| group.members[0].cosigner_key = group.members[1].cosigner_key,
        |group| group.members[2].transport_key = group.members[1].vote_key,
        |group| group.members[2].transport_key = group.members[2].cosigner_key,
        |group| group.operators[0] = group.members[0].vote_key,
        |group| group.operators[0] = group.operators[1],
        |group| group.hosts[0].key = group.operators[0],
    ];
    for (number, changed) in each_changed(&group(4, 1), &cases) {
        assert_eq!(changed.validate().map_err(|e| e.kind()), Err("KeyRoleMismatch"), "case {number}");
    }
}

#[test]
fn test_stated_quorum_that_is_wrong_is_refused() {
    let group = group(10, 2);
    assert_eq!(group.check_stated_quorum(7), Ok(()));
    for stated in [0, 5, 6, 8, 9, u64::MAX] {
        assert_eq!(group.check_stated_quorum(stated).map_err(|e| e.kind()), Err("BadConfig"), "{stated}");
    }
}

#[test]
fn test_infeasible_oversize_or_unnamed_groups_and_other_hashes_are_refused() {
    let cases: [Change<GroupConfig>; 10] = [
        (|group| group.genesis = None, "BadConfig"),
        (|group| group.epoch = Epoch::ZERO, "BadConfig"),
        (|group| group.f = 2, "BadConfig"),
        (|group| group.f = u64::MAX, "BadConfig"),
        (|group| group.members.clear(), "BadConfig"),
        (|group| group.hash_algorithm = 2, "BadConfig"),
        (|group| group.name = "Upper".into(), "BadConfig"),
        (|group| group.members[0].name = group.members[1].name.clone(), "BadConfig"),
        (|group| group.hosts[0].name = "../host".into(), "BadConfig"),
        (|group| group.hosts[0].name = group.members[0].name.clone(), "BadConfig"),
    ];
    for (number, (change, kind)) in cases.into_iter().enumerate() {
        let mut changed = group(4, 1);
        change(&mut changed);
        assert_eq!(changed.validate().map_err(|e| e.kind()), Err(kind), "case {number}");
    }
    let large = group(MEMBERS_LIMIT as u16 + 1, 1);
    assert_eq!(large.validate().map_err(|e| e.kind()), Err("MessageTooLarge"));
    assert_eq!(GroupConfig::decode(&to_bytes(&large)).map_err(|e| e.kind()), Err("DecodeError"));
}

#[test]
fn test_largest_group_fits_its_limit() {
    let mut large = group(MEMBERS_LIMIT as u16, 21);
    large.operators = (0..1024).map(|number| secret(Use::Operator, number).public()).collect();
    let host = |number| Host { name: format!("{number:0>64}"), key: host_key(number).public() };
    large.hosts = (0..1024).map(host).collect();
    large.members.iter_mut().for_each(|member| member.name = format!("{:x>64}", member.name));
    assert_eq!(large.validate(), Ok(()));
    assert!(to_bytes(&large).len() <= GroupConfig::LIMIT);
}

#[test]
fn test_digest_changes_with_every_field_and_the_id_with_those_of_the_genesis_only() {
    let changes: [fn(&mut GroupConfig); 8] = [
        |group| group.name.push('x'),
        |group| group.hash_algorithm = 2,
        |group| group.operators.clear(),
        |group| group.f = 0,
        |group| group.members.swap(0, 1),
        |group| group.operators.swap(0, 1),
        |group| group.hosts.swap(0, 1),
        |group| group.members[0].cosigner_key = secret(Use::Client, 0).public(),
    ];
    let later = group(4, 1);
    let first = GroupConfig { epoch: Epoch::ZERO, genesis: None, ..later.clone() };
    assert_eq!(first.id().to_bytes(), first.digest().to_bytes());
    for (number, changed) in each_changed(&first, &changes) {
        assert_ne!(changed.id(), first.id(), "case {number}");
    }
    for (number, changed) in each_changed(&later, &changes) {
        assert_ne!(changed.digest(), later.digest(), "case {number}");
        assert_eq!(changed.id(), later.id(), "case {number}");
    }
    let next = GroupConfig { epoch: Epoch(4), ..later.clone() };
    assert_ne!(next.digest(), later.digest());
}

#[test]
fn test_members_operators_and_hosts_are_found_by_their_own_role_only() {
    let group = group(4, 1);
    assert_eq!(group.index_of(&vote_key(2).public()), Ok(2));
    assert_eq!(group.index_of(&host_key(0).public()).map_err(|e| e.kind()), Err("SignerNotMember"));
    assert_eq!(group.member(4).map_err(|e| e.kind()), Err("SignerOutOfRange"));
    assert!(
        group.is_operator(&secret(Use::Operator, 1).public()) && !group.is_operator(&vote_key(0).public())
    );
    assert!(group.is_host(&host_key(2).public()) && !group.is_host(&vote_key(0).public()));
}

#[test]
fn test_proof_of_possession_holds_for_one_key_role_member_and_group_only() {
    let (key, other) = (vote_key(0), vote_key(1).public());
    let proof = Possession::prove("test", "verifier-0", Role::Vote, &key);
    let verify = |proof: &Possession, group, member, role, key| {
        proof.verify(group, member, role, key).map_err(|e| e.kind())
    };
    let public = key.public();
    assert_eq!(verify(&proof, "test", "verifier-0", Role::Vote, &public), Ok(()));
    assert_eq!(verify(&proof, "prod", "verifier-0", Role::Vote, &public), Err("ProofOfPossessionInvalid"));
    assert_eq!(verify(&proof, "test", "verifier-1", Role::Vote, &public), Err("ProofOfPossessionInvalid"));
    assert_eq!(verify(&proof, "test", "verifier-0", Role::Host, &public), Err("KeyRoleMismatch"));
    assert_eq!(verify(&proof, "test", "verifier-0", Role::Vote, &other), Err("KeyRoleMismatch"));
    // Another member's key with a proof made with one's own.
    let stolen = Possession { key: other, ..proof.clone() };
    assert_eq!(verify(&stolen, "test", "verifier-0", Role::Vote, &other), Err("ProofOfPossessionInvalid"));
    let moved = Possession { role: Role::Operator, ..proof };
    assert_eq!(
        verify(&moved, "test", "verifier-0", Role::Operator, &public),
        Err("ProofOfPossessionInvalid")
    );
}
