use crate::fixtures::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::*;
use quorate_attest::error::VerifyError;
use quorate_attest::group::{GroupConfig, Host, Member};
use quorate_attest::id::*;
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::statement::Kind;
use quorate_attest::vm::DecisionCertificate;

fn root_key(number: u16) -> SecretKey {
    secret(Use::Root, number)
}

pub fn roots() -> RootSet {
    RootSet { threshold: 2, keys: (0..3).map(|number| root_key(number).public()).collect() }
}

pub fn genesis() -> GroupConfig {
    GroupConfig { epoch: Epoch::ZERO, genesis: None, ..group(4, 1) }
}

pub fn signed_genesis(signers: &[u16]) -> SignedGenesis {
    SignedGenesis::sign(genesis(), &signers.iter().map(|number| root_key(*number)).collect::<Vec<_>>())
}

fn member(number: u16) -> Member {
    Member {
        name: format!("verifier-{number}"),
        vote_key: vote_key(number).public(),
        cosigner_key: secret(Use::Cosigner, number).public(),
        transport_key: secret(Use::Transport, number).public(),
    }
}

/// The next epoch, in which the first member has left and a new one has joined at the end.
pub fn rotated(previous: &GroupConfig) -> GroupConfig {
    let mut next = previous.clone();
    next.epoch = previous.epoch.next().unwrap();
    next.genesis = Some(previous.id());
    next.members.remove(0);
    next.members.push(member(previous.epoch.get() as u16 + 4));
    next
}

fn number_of(config: &GroupConfig, index: u16) -> u16 {
    config.members[usize::from(index)].name.trim_start_matches("verifier-").parse().unwrap()
}

fn sign(config: &GroupConfig, link: (&GroupConfig, ConfigDigest), count: u16) -> Vec<(u16, Signature)> {
    let statement = EpochLink::statement(link.0, link.1);
    let of = |index| (index, statement.sign(&vote_key(number_of(config, index))));
    (0..count).map(of).collect()
}

fn link_with(previous: &GroupConfig, config: GroupConfig, old: u16, new: u16) -> EpochLink {
    let digest = previous.digest();
    let (old, new) = (sign(previous, (&config, digest), old), sign(&config, (&config, digest), new));
    EpochLink { config, previous: digest, old, new }
}

/// A link with a quorum of both epochs.
pub fn link(previous: &GroupConfig, config: GroupConfig) -> EpochLink {
    let (old, new) = (previous.rule().unwrap().quorum(), config.rule().unwrap().quorum());
    link_with(previous, config, old as u16, new as u16)
}

pub fn chain(links: u64) -> GroupChain {
    let mut chain = GroupChain::new(genesis()).unwrap();
    for _ in 0..links {
        let next = rotated(chain.current());
        chain.advance(link(chain.current(), next)).unwrap();
    }
    chain
}

fn refused(chain: &GroupChain, link: EpochLink) -> &'static str {
    let mut copy = chain.clone();
    let error = copy.advance(link).unwrap_err();
    assert_eq!(&copy, chain, "a refused link changed the chain");
    error.kind()
}

#[test]
fn test_genesis_needs_the_threshold_of_distinct_root_keys() {
    for (signers, verdict) in [
        (&[0, 1][..], Ok(())),
        (&[0, 2], Ok(())),
        (&[0, 1, 2], Ok(())),
        (&[1], Err("QuorumNotReached")),
        (&[], Err("QuorumNotReached")),
        (&[0, 7], Err("SignerNotMember")),
        (&[1, 1], Err("DuplicateSigner")),
    ] {
        let got = signed_genesis(signers).verify(&roots()).map_err(|e| e.kind());
        assert_eq!(got, verdict, "{signers:?}");
    }
    assert!(GroupChain::from_signed(signed_genesis(&[0, 1]), &roots()).is_ok());
    assert!(GroupChain::from_signed(signed_genesis(&[0]), &roots()).is_err());
}

#[test]
fn test_unsorted_forged_and_moved_root_signatures_are_refused() {
    let signed = signed_genesis(&[0, 1]);
    let kind = |changed: &SignedGenesis| changed.verify(&roots()).unwrap_err().kind();
    let mut swapped = signed.clone();
    swapped.signatures.reverse();
    assert_eq!(kind(&swapped), "SignerOutOfOrder");
    let mut other_group = signed.clone();
    other_group.config.f = 0;
    assert_eq!(kind(&other_group), "BadSignature");
    let mut forged = signed.clone();
    forged.signatures[0].1 = forged.signatures[1].1;
    assert_eq!(kind(&forged), "BadSignature");
    let mut later = signed;
    later.config.epoch = Epoch(1);
    later.config.genesis = Some(genesis().id());
    assert_eq!(kind(&later), "WrongEpoch");
}

#[test]
fn test_root_key_with_a_role_in_the_group_is_refused() {
    let mut config = genesis();
    config.operators.push(root_key(2).public());
    let verdict = SignedGenesis::sign(config, &[root_key(0), root_key(1)]).verify(&roots());
    assert_eq!(verdict.map_err(|e| e.kind()), Err("KeyRoleMismatch"));
}

#[test]
fn test_root_sets_without_a_sensible_threshold_or_with_one_key_twice_are_refused() {
    for threshold in [0, 4, u16::MAX] {
        let verdict = RootSet { threshold, ..roots() }.validate();
        assert_eq!(verdict.map_err(|e| e.kind()), Err("BadConfig"), "{threshold}");
    }
    let mut doubled = roots();
    doubled.keys[2] = doubled.keys[0];
    assert_eq!(doubled.validate().map_err(|e| e.kind()), Err("DuplicateSigner"));
    let many = RootSet { threshold: 1, keys: (0..65).map(|number| root_key(number).public()).collect() };
    assert_eq!(many.validate().map_err(|e| e.kind()), Err("MessageTooLarge"));
}

#[test]
fn test_chain_walks_from_the_genesis_and_keeps_one_identity() {
    let chain = chain(3);
    assert_eq!((chain.id(), chain.current().id()), (genesis().id(), genesis().id()));
    assert_eq!(chain.current().epoch, Epoch(3));
    for epoch in 0..4 {
        assert_eq!(chain.config(Epoch(epoch)).unwrap().epoch, Epoch(epoch));
    }
    assert_eq!(GroupChain::decoded(&chain.encoded()), Ok(chain.clone()));
    assert_eq!(chain.links().len(), 3);
    assert_eq!(chain.genesis(), &genesis());
}

#[test]
fn test_link_needs_a_quorum_of_the_old_members_and_one_of_the_new() {
    let chain = chain(0);
    let next = || rotated(chain.current());
    for (old, new) in [(2, 3), (3, 2), (2, 2), (0, 4), (4, 0)] {
        assert_eq!(refused(&chain, link_with(chain.current(), next(), old, new)), "QuorumNotReached");
    }
    for (old, new) in [(3, 3), (4, 3), (3, 4), (4, 4)] {
        assert_eq!(chain.clone().advance(link_with(chain.current(), next(), old, new)), Ok(()));
    }
}

#[test]
fn test_old_signatures_cannot_be_passed_off_as_new_ones() {
    let chain = chain(0);
    let next = rotated(chain.current());
    let good = link(chain.current(), next.clone());
    let copied = EpochLink { new: good.old.clone(), ..good.clone() };
    assert_eq!(refused(&chain, copied), "BadSignature");
    let swapped = EpochLink { new: good.old.clone(), old: good.new.clone(), ..good.clone() };
    assert_eq!(refused(&chain, swapped), "BadSignature");
    let mut removed = good;
    removed.new.push((4, removed.old[0].1));
    assert_eq!(refused(&chain, removed), "SignerOutOfRange");
    let mut tally = EpochLinkTally::new(chain.current(), next).unwrap();
    let stranger = vote_key(9);
    let verdict = tally.add(&stranger.public(), stranger.sign(b""));
    assert_eq!(verdict, Err(VerifyError::SignerNotMember { key: stranger.public() }));
}

#[test]
fn test_gap_repeated_epoch_and_swapped_epochs_are_unlinked() {
    let chain = chain(1);
    let far = rotated(&rotated(chain.current()));
    assert_eq!(refused(&chain, link(chain.current(), far)), "EpochUnlinked");
    let same = chain.links()[0].clone();
    assert_eq!(refused(&chain, same), "EpochUnlinked");
    let whole = self::chain(2);
    let mut swapped = GroupChain::new(genesis()).unwrap();
    assert_eq!(swapped.advance(whole.links()[1].clone()).map_err(|e| e.kind()), Err("EpochUnlinked"));
    assert_eq!(whole.config(Epoch(3)).map_err(|e| e.kind()), Err("EpochUnlinked"));
    assert_eq!(whole.config(Epoch(u64::MAX)).map_err(|e| e.kind()), Err("EpochUnlinked"));
    assert_eq!(whole.check_fresh(Epoch(3)).map_err(|e| e.kind()), Err("EpochUnlinked"));
}

#[test]
fn test_link_of_one_side_of_a_fork_does_not_continue_the_other() {
    let left = chain(1);
    let mut other = rotated(&genesis());
    other.members[3] = member(20);
    let mut right = chain(0);
    // Both sides exist only because the old members signed twice: f + 1 of them are Byzantine.
    right.advance(link(&genesis(), other)).unwrap();
    let continued = link(right.current(), rotated(right.current()));
    assert_eq!(refused(&left, continued.clone()), "EpochUnlinked");
    let relabelled = EpochLink { previous: left.current().digest(), ..continued };
    assert_eq!(refused(&left, relabelled), "BadSignature");
}

/// One Byzantine old member signs both successors, the honest ones sign one each: no second quorum. Two can.
#[test]
fn test_f_old_members_cannot_fork_the_chain_and_f_plus_one_can() {
    let (chain, left) = (chain(0), rotated(&genesis()));
    let mut right = left.clone();
    right.members[3] = member(20);
    let with = |config: &GroupConfig, old: &[u16]| {
        let mut link = link(&genesis(), config.clone());
        let all = sign(&genesis(), (config, genesis().digest()), 4);
        link.old = old.iter().map(|index| all[usize::from(*index)]).collect();
        chain.clone().advance(link).is_ok()
    };
    for byzantine in 0..4u16 {
        let honest: Vec<u16> = (0..4).filter(|index| *index != byzantine).collect();
        for split in 0..=3 {
            let side = |part: &[u16]| {
                let mut signers = [part, &[byzantine]].concat();
                signers.sort_unstable();
                signers
            };
            let (a, b) = honest.split_at(split);
            assert!(!(with(&left, &side(a)) && with(&right, &side(b))));
        }
    }
    assert!(with(&left, &[0, 1, 2]) && with(&right, &[0, 1, 3]));
}

#[test]
fn test_each_changed_field_of_a_link_is_refused() {
    let chain = chain(1);
    let changes: [Change<EpochLink>; 9] = [
        (|l| l.previous = ConfigDigest::ZERO, "EpochUnlinked"),
        (|l| l.config.genesis = Some(GroupId::ZERO), "WrongCluster"),
        (|l| l.config.genesis = None, "BadConfig"),
        (|l| l.config.name.push('x'), "BadConfig"),
        (|l| l.config.f = 2, "BadConfig"),
        (|l| l.config.f = 0, "BadSignature"),
        (|l| l.config.hosts.truncate(1), "BadSignature"),
        (|l| l.old[1] = l.old[0], "DuplicateSigner"),
        (|l| l.new.swap(0, 1), "SignerOutOfOrder"),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut changed = link(chain.current(), rotated(chain.current()));
        change(&mut changed);
        assert_eq!(refused(&chain, changed), kind, "change {number}");
    }
}

#[test]
fn test_key_keeps_its_role_over_all_epochs_even_after_it_was_removed() {
    let chain = chain(2);
    let retired = |role| secret(role, 0).public();
    let changes: [fn(&mut GroupConfig, PublicKeys); 3] = [
        |config, keys| config.operators.push(keys.0),
        |config, keys| config.hosts.push(Host { name: "late".into(), key: keys.1 }),
        |config, keys| config.members[3].vote_key = keys.2,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut next = rotated(chain.current());
        change(&mut next, (retired(Use::Vote), retired(Use::Cosigner), retired(Use::Transport)));
        assert_eq!(next.validate(), Ok(()));
        // Member 0 left in epoch 1: the previous configuration alone does not show it.
        assert_eq!(refused(&chain, link_of(&chain, next)), "KeyRoleMismatch", "change {number}");
    }
    let mut next = rotated(chain.current());
    next.members[3].vote_key = host_key(0).public();
    next.hosts.remove(0);
    assert_eq!(refused(&chain, link_of(&chain, next)), "KeyRoleMismatch");
    let mut back = rotated(chain.current());
    back.members[3] = member(0);
    assert_eq!(chain.clone().advance(link(chain.current(), back)), Ok(()), "a member may come back");
}

type PublicKeys =
    (quorate_attest::key::PublicKey, quorate_attest::key::PublicKey, quorate_attest::key::PublicKey);

/// A link without signatures of the changed member, so that only roles are at stake.
fn link_of(chain: &GroupChain, config: GroupConfig) -> EpochLink {
    link_with(chain.current(), config, 3, 3)
}

fn decided(config: &GroupConfig, signers: &[u16]) -> DecisionCertificate {
    let decision = decision(config, migrate());
    let sign = |index: &u16| (*index, decision.sign(&vote_key(number_of(config, *index))));
    DecisionCertificate { signatures: signers.iter().map(sign).collect(), decision }
}

#[test]
fn test_certificate_of_a_retired_epoch_is_history_and_never_fresh() {
    let chain = chain(2);
    let expected = |epoch| chain.config(Epoch(epoch)).unwrap().expected(spec().id(), Kind::DECISION);
    for epoch in 0..3 {
        let config = chain.config(Epoch(epoch)).unwrap();
        assert_eq!(decided(config, &[0, 1, 2]).verify(config, &expected(epoch)), Ok(()));
        let fresh = chain.check_fresh(Epoch(epoch));
        let retired = VerifyError::EpochRetired { epoch: Epoch(epoch), current: Epoch(2) };
        assert_eq!(fresh, if epoch == 2 { Ok(()) } else { Err(retired) });
    }
    let old = decided(chain.genesis(), &[0, 1, 2]);
    assert_eq!(old.verify(chain.current(), &expected(2)).map_err(|e| e.kind()), Err("WrongEpoch"));
}

#[test]
fn test_quorum_of_old_members_cannot_sign_in_the_new_epoch() {
    let chain = chain(1);
    let (now, expected) = (chain.current(), chain.current().expected(spec().id(), Kind::DECISION));
    let mut certificate = decided(now, &[0, 1]);
    let removed = certificate.decision.sign(&vote_key(0));
    for (index, kind) in [(3, "BadSignature"), (4, "SignerOutOfRange")] {
        certificate.signatures.truncate(2);
        certificate.signatures.push((index, removed));
        assert_eq!(certificate.verify(now, &expected).map_err(|e| e.kind()), Err(kind));
    }
    assert_eq!(now.index_of(&vote_key(0).public()).map_err(|e| e.kind()), Err("SignerNotMember"));
}

#[test]
fn test_link_tally_counts_members_of_both_epochs_in_both_and_is_not_poisoned() {
    let (old, next) = (genesis(), rotated(&genesis()));
    let statement = EpochLink::statement(&next, old.digest());
    let mut tally = EpochLinkTally::new(&old, next.clone()).unwrap();
    let vote = |number| (vote_key(number).public(), statement.sign(&vote_key(number)));
    let (key, _) = vote(1);
    assert_eq!(tally.add(&key, vote(2).1).map_err(|e| e.kind()), Err("BadSignature"));
    let mut add = |number| {
        let (key, signature) = vote(number);
        tally.add(&key, signature).map_err(|e| e.kind())
    };
    assert_eq!((add(0), add(4), add(1), add(2)), (Ok(false), Ok(false), Ok(false), Ok(true)));
    assert_eq!(add(2), Err("DuplicateSigner"));
    assert_eq!(tally.progress(), ((3, 3), (3, 3)));
    assert_eq!(GroupChain::new(old.clone()).unwrap().advance(tally.link().unwrap()), Ok(()));
    let early = EpochLinkTally::new(&old, next.clone()).unwrap();
    assert_eq!(early.link().map_err(|e| e.kind()), Err("QuorumNotReached"));
    let gap = EpochLinkTally::new(&old, rotated(&next)).map(|_| ());
    assert_eq!(gap.map_err(|e| e.kind()), Err("EpochUnlinked"));
}

#[test]
fn test_chain_whose_links_do_not_hold_does_not_decode() {
    let chain = chain(2);
    let bytes = chain.encoded();
    let first = chain.genesis().encoded().len();
    for (at, what) in [(first - 1, "genesis"), (first + 4 + 10, "link"), (bytes.len() - 1, "signature")] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(GroupChain::decoded(&changed).map_err(|e| e.kind()), Err("DecodeError"), "{what}");
    }
    assert_eq!(GroupChain::new(rotated(&genesis())).map_err(|e| e.kind()), Err("WrongEpoch"));
}

#[test]
fn test_chain_has_an_end() {
    let mut chain = GroupChain::new(GroupConfig {
        members: vec![member(0)],
        operators: vec![],
        hosts: vec![],
        f: 0,
        ..genesis()
    })
    .unwrap();
    let next = |chain: &GroupChain| {
        let mut config = chain.current().clone();
        config.epoch = config.epoch.next().unwrap();
        config.genesis = Some(chain.id());
        link(chain.current(), config)
    };
    for _ in 0..LINKS_LIMIT {
        let link = next(&chain);
        chain.advance(link).unwrap();
    }
    assert_eq!(refused(&chain, next(&chain)), "MessageTooLarge");
}
