//! The chain of slots that a verifier follows, and the log of their statements.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::id::{Slot, StatementDigest};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{SlotStatement, statement_leaf};

/// Statements kept to step back to the slot that a later generation starts from. A generation that starts further back
/// can be followed only from slot 0.
pub const RECENT_STATEMENTS: usize = 64;

/// Statements 0 ..= head: the newest ones whole, the others as a frontier.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Chain {
    /// Log of the statements before `recent`.
    base: Frontier<Sha256Tree>,
    /// Newest statements, oldest first.
    recent: Vec<SlotStatement>,
    /// Inputs up to the head; unknown after stepping back.
    input_log: Option<Frontier<Sha256Tree>>,
}

impl Chain {
    /// The empty chain: nothing but the inputs before slot 0, of which there are none.
    #[must_use]
    pub fn new() -> Self {
        Self { input_log: Some(Frontier::new()), ..Self::default() }
    }

    /// The newest statement.
    #[must_use]
    pub fn head(&self) -> Option<&SlotStatement> {
        self.recent.last()
    }

    /// Slot that comes next.
    #[must_use]
    pub fn next(&self) -> Slot {
        Slot(self.base.size() + self.recent.len() as u64)
    }

    /// Inputs up to the head.
    #[must_use]
    pub fn input_log(&self) -> Option<&Frontier<Sha256Tree>> {
        self.input_log.as_ref()
    }

    /// The statement of a slot, if it is recent.
    #[must_use]
    pub fn statement(&self, slot: Slot) -> Option<&SlotStatement> {
        let at = slot.get().checked_sub(self.base.size())?;
        self.recent.get(usize::try_from(at).ok()?)
    }

    /// The newest statements, oldest first: at most [`RECENT_STATEMENTS`], the head among them.
    #[must_use]
    pub fn recent(&self) -> &[SlotStatement] {
        &self.recent
    }

    /// The log of all statements: its root and size are what a cosignature covers.
    #[must_use]
    pub fn log(&self) -> Frontier<Sha256Tree> {
        let mut log = self.base.clone();
        self.recent.iter().for_each(|statement| log.push(&statement_leaf(statement)));
        log
    }

    /// Appends the successor of the head.
    ///
    /// # Panics
    /// When it is not the next slot: the caller has checked that.
    pub fn push(&mut self, statement: SlotStatement, input_log: Frontier<Sha256Tree>) {
        self.extend(statement);
        self.input_log = Some(input_log);
    }

    /// Appends several statements at once; `input_log` is that of the last one.
    pub fn append(&mut self, statements: &[SlotStatement], input_log: Frontier<Sha256Tree>) {
        statements.iter().for_each(|statement| self.extend(statement.clone()));
        self.input_log = Some(input_log);
    }

    fn extend(&mut self, statement: SlotStatement) {
        assert_eq!(statement.slot, self.next(), "statements are appended in order");
        if self.recent.len() == RECENT_STATEMENTS {
            let oldest = self.recent.remove(0);
            self.base.push(&statement_leaf(&oldest));
        }
        self.recent.push(statement);
    }

    /// Steps back until the head is the named slot; if that slot holds another statement, to the one before.
    /// Without the statements needed for that, the chain is empty again.
    pub fn step_back_to(&mut self, slot: Slot, statement: &StatementDigest) {
        let keeps =
            |kept: &SlotStatement| kept.slot < slot || (kept.slot == slot && kept.digest() == *statement);
        if self.recent.last().is_none_or(keeps) {
            return;
        }
        while self.recent.last().is_some_and(|newest| !keeps(newest)) {
            self.recent.pop();
        }
        self.input_log = None;
        if self.recent.is_empty() {
            *self = Self::new();
        }
    }
}
