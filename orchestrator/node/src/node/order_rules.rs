//! What the ordered log must know about operations: which may enter a block, what names them, and which ends an epoch.
//!
//! Every member must come to the same verdict from the bytes alone. Within an epoch the chain of configurations does not change, so a
//! change of the group is judged before it is ordered: one that is in the log takes effect, and nothing follows it in its epoch.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use quorate_agreement::Operations;
use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::GroupChain;
use quorate_attest::id::OperationId;
use quorate_attest::operation::Operation;
use quorate_control::{Command, Submission, Which};
use sha2::{Digest as _, Sha256};

/// Operations whose signatures are remembered as checked. They arrive several times: from the author, from members, in blocks.
const CHECKED_MAX: usize = 32_768;

/// What the rules look at: the chain of the present epoch, and which signatures were checked before.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    chain: Arc<RwLock<GroupChain>>,
    checked: Arc<Checked>,
}

/// Digests of operations, signature included, that were found to be signed. Bounded; the oldest are forgotten.
#[derive(Debug, Default)]
struct Checked(Mutex<Digests>);

#[derive(Debug, Default)]
struct Digests {
    known: HashSet<[u8; 32]>,
    /// Oldest first.
    order: VecDeque<[u8; 32]>,
}

impl Checked {
    fn knows(&self, bytes: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known.contains(&digest)
    }

    fn remember(&self, bytes: &[u8]) {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Digests { known, order } = &mut *guard;
        if !known.insert(digest) {
            return;
        }
        order.push_back(digest);
        if order.len() > CHECKED_MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

impl Rules {
    /// The rules of the epoch in which `chain` ends.
    pub(super) fn new(chain: GroupChain) -> Self {
        Self { chain: Arc::new(RwLock::new(chain)), checked: Arc::default() }
    }

    /// Goes on to a later epoch. Must come before the log does.
    pub(super) fn advance(&self, chain: &GroupChain) {
        let mut known = self.chain.write().unwrap_or_else(PoisonError::into_inner);
        if known.current().epoch < chain.current().epoch {
            *known = chain.clone();
        }
    }

    /// Notes that these bytes are an operation that its author signed for this group.
    pub(super) fn is_signed(&self, bytes: &[u8]) {
        self.checked.remember(bytes);
    }

    /// The form that the log wants.
    pub(super) fn operations(&self) -> Operations {
        let rules = self.clone();
        let validate = move |bytes: &[u8]| rules.may_be_ordered(bytes);
        let ends_epoch =
            |bytes: &[u8]| Operation::decoded(bytes).is_ok_and(|operation| ends_epoch(&operation));
        Operations { validate: Arc::new(validate), operation_id, ends_epoch: Arc::new(ends_epoch) }
    }

    /// Signed by its author for this group; and if it changes the orchestrators' group, certain to do so.
    fn may_be_ordered(&self, bytes: &[u8]) -> bool {
        let chain = self.chain.read().unwrap_or_else(PoisonError::into_inner);
        if !self.checked.knows(bytes) {
            // A copy with a spoilt signature would take the operation's place in the log, so no block may hold one.
            if Submission::read(bytes, &chain.id()).operation().is_err() {
                return false;
            }
            self.checked.remember(bytes);
        }
        let Ok(operation) = Operation::decoded(bytes) else { return false };
        match Command::decoded(&operation.command) {
            Ok(Command::ChangeGroup { which: Which::Orchestrators, link }) => {
                let group = chain.current();
                let may_ask =
                    group.is_operator(&operation.author) || group.index_of(&operation.author).is_ok();
                may_ask && chain.clone().advance(link).is_ok()
            }
            _ => true,
        }
    }
}

fn operation_id(bytes: &[u8]) -> Option<OperationId> {
    Operation::decoded(bytes).ok().map(|operation| operation.id())
}

fn ends_epoch(operation: &Operation) -> bool {
    let command = Command::decoded(&operation.command);
    matches!(command, Ok(Command::ChangeGroup { which: Which::Orchestrators, .. }))
}

#[cfg(test)]
mod tests {
    use quorate_attest::epoch::{EpochLink, EpochLinkTally};
    use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
    use quorate_attest::id::{Epoch, Nonce};
    use quorate_attest::key::{SecretKey, Signature};

    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn group() -> GroupConfig {
        let member = |index: u8| Member {
            name: format!("orchestrator-{index}"),
            vote_key: key(10 + index).public(),
            cosigner_key: key(20 + index).public(),
            transport_key: key(30 + index).public(),
        };
        GroupConfig {
            name: "orchestrators".into(),
            hash_algorithm: HASH_SHA256,
            epoch: Epoch::ZERO,
            genesis: None,
            f: 1,
            members: (0..4).map(member).collect(),
            operators: vec![key(1).public()],
            hosts: Vec::new(),
        }
    }

    /// The step to a group in which one member has another vote key, signed by these of both.
    fn link(signers: &[u8]) -> EpochLink {
        let genesis = group();
        let mut next = GroupConfig { epoch: Epoch(1), genesis: Some(genesis.id()), ..genesis.clone() };
        next.members[3].vote_key = key(99).public();
        let statement = EpochLink::statement(&next, genesis.digest());
        let mut tally = EpochLinkTally::new(&genesis, next.clone()).unwrap();
        for seed in signers {
            tally.add(&key(*seed).public(), statement.sign(&key(*seed))).unwrap();
        }
        tally.link().unwrap_or(EpochLink {
            config: next,
            previous: genesis.digest(),
            old: signers.iter().map(|seed| (u16::from(*seed) - 10, statement.sign(&key(*seed)))).collect(),
            new: Vec::new(),
        })
    }

    fn change(author: u8, link: EpochLink) -> Vec<u8> {
        let command = Command::ChangeGroup { which: Which::Orchestrators, link };
        command.to_operation(&key(author), group().id(), Nonce::ZERO).encoded()
    }

    #[test]
    fn only_a_change_of_the_group_that_will_take_effect_ends_an_epoch() {
        let rules = Rules::new(GroupChain::new(group()).unwrap()).operations();
        let good = change(1, link(&[10, 11, 12]));
        assert!((rules.validate)(&good) && (rules.ends_epoch)(&good));
        assert!((rules.validate)(&change(10, link(&[10, 11, 12]))), "a member may ask for it too");
        for refused in [change(1, link(&[10, 11])), change(77, link(&[10, 11, 12]))] {
            assert!(!(rules.validate)(&refused), "it would end the epoch without beginning another");
        }
        let mut later = GroupChain::new(group()).unwrap();
        later.advance(link(&[10, 11, 12])).unwrap();
        let following = Rules::new(GroupChain::new(group()).unwrap());
        following.advance(&later);
        assert!(!(following.operations().validate)(&good), "not a second time in the next epoch");
    }

    #[test]
    fn a_copy_with_a_spoilt_signature_enters_no_block() {
        let rules = Rules::new(GroupChain::new(group()).unwrap()).operations();
        let command = Command::RevokeClient { key: key(5).public() };
        let operation = command.to_operation(&key(1), group().id(), Nonce::ZERO);
        assert!((rules.validate)(&operation.encoded()) && !(rules.ends_epoch)(&operation.encoded()));
        let spoilt = Operation { signature: Signature::NONE, ..operation.clone() };
        assert_eq!((rules.operation_id)(&spoilt.encoded()), (rules.operation_id)(&operation.encoded()));
        assert!(!(rules.validate)(&spoilt.encoded()));
        assert!(!(rules.validate)(&[1, 2, 3]));
    }

    #[test]
    fn checked_signatures_are_bounded_and_say_nothing_about_other_bytes() {
        let checked = Checked::default();
        for number in 0..=CHECKED_MAX as u64 {
            checked.remember(&number.to_le_bytes());
            checked.remember(&number.to_le_bytes());
        }
        assert!(checked.knows(&(CHECKED_MAX as u64).to_le_bytes()));
        assert!(!checked.knows(&0u64.to_le_bytes()), "the oldest is forgotten");
        assert!(!checked.knows(&[1, 2, 3]));
    }
}
