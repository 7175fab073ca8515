//! What the answers to questions about the state contain.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::VerifyError;
use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::{EpochLink, GroupChain};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::VmId;
use quorate_control::Vm;

use crate::protocol::ANSWER_BYTES_MAX;

/// Most VMs in one [`VmPage`].
pub const VM_PAGE_MAX: usize = 64;

/// Answer to [`Question::Vm`](crate::protocol::Question::Vm).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VmAnswer(pub Option<Vm>);

impl Bounded for VmAnswer {
    const LIMIT: usize = ANSWER_BYTES_MAX;
}

/// Answer to [`Question::Vms`](crate::protocol::Question::Vms): at most [`VM_PAGE_MAX`], ascending; empty after the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VmPage(pub Vec<(VmId, Vm)>);

impl Bounded for VmPage {
    const LIMIT: usize = ANSWER_BYTES_MAX;
}

/// Answer to [`Question::Orchestrators`](crate::protocol::Question::Orchestrators) and
/// [`Question::Verifiers`](crate::protocol::Question::Verifiers).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ChainAnswer {
    /// Configuration of epoch 0.
    pub genesis: GroupConfig,
    /// Links to the later epochs, in order.
    pub links: Vec<EpochLink>,
}

impl Bounded for ChainAnswer {
    const LIMIT: usize = ANSWER_BYTES_MAX;
}

impl ChainAnswer {
    /// What an orchestrator tells of a chain.
    pub fn of(chain: &GroupChain) -> Self {
        Self { genesis: chain.genesis().clone(), links: chain.links().to_vec() }
    }

    /// The chain, every link checked.
    ///
    /// # Errors
    /// A link does not hold.
    pub fn into_chain(self) -> Result<GroupChain, VerifyError> {
        let mut chain = GroupChain::new(self.genesis)?;
        self.links.into_iter().try_for_each(|link| chain.advance(link))?;
        Ok(chain)
    }
}
