//! Records of all VMs in one sign-log: what frames mean, and the states they lead to.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{Epoch, GroupId, VmId};
use quorate_attest::key::PublicKey;

use crate::core::{Context, Record, VmState};
use crate::sign_log::{Entry, Opened, PAYLOAD_BYTES_MAX, SignLog, SignLogError, Storage};

/// Frame kind of the first entry.
const IDENTITY: u8 = 1;
/// Frame kind of a batch of records.
const BATCH: u8 = 2;
/// Version of the records.
const VERSION: u16 = 2;
/// A log is replaced by the states it leads to when it has grown past this and past four times those states.
const COMPACTION_BYTES: u64 = 32 << 20;

/// Whose sign-log it is. A log of somebody else is no sign-state at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Identity {
    version: u16,
    group: GroupId,
    epoch: Epoch,
    index: u16,
    vote_key: PublicKey,
}

impl Identity {
    /// Member `index` of a group.
    #[must_use]
    pub fn new(group: GroupId, epoch: Epoch, index: u16, vote_key: PublicKey) -> Self {
        Self { version: VERSION, group, epoch, index, vote_key }
    }

    /// The identity that runs in this context.
    #[must_use]
    pub fn of(context: &Context) -> Self {
        let signer = &context.signer;
        Self::new(context.group_id, context.group.epoch, signer.index(), signer.vote_key())
    }

    fn read(entry: &Entry) -> Option<Self> {
        let decoded = || from_bytes(&entry.payload, PAYLOAD_BYTES_MAX).ok();
        (entry.kind == IDENTITY).then(decoded).flatten()
    }

    /// Whether this sign-log may go on as that of `now`: the same one, or the same member in a later epoch of the group. A
    /// member keeps its name; index and keys may change, the promises of the log bind it all the same.
    fn check_continued_by(&self, now: &Self, context: &Context) -> Result<(), String> {
        if self == now {
            return Ok(());
        }
        if (self.version, self.group) != (now.version, now.group) {
            return Err("the sign-log belongs to another group or version".to_owned());
        }
        if self.epoch >= now.epoch {
            return Err(match self.epoch > now.epoch {
                true => format!("epoch {} has retired: it was signed for in epoch {}", now.epoch, self.epoch),
                false => "the sign-log belongs to another identity".to_owned(),
            });
        }
        let before = context.group.config(self.epoch).map_err(|error| error.to_string())?;
        let then = before.member(self.index).ok().filter(|member| member.vote_key == self.vote_key);
        let now = context.group.member(now.index).ok();
        match (then, now) {
            (Some(then), Some(now)) if then.name == now.name => Ok(()),
            _ => Err("the sign-log belongs to another identity".to_owned()),
        }
    }

    /// The first entry of its sign-log.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { kind: IDENTITY, payload: to_bytes(self) }
    }
}

/// One VM's record.
pub type Change = (VmId, Record);

/// The sign-log with the states that its records lead to.
#[derive(Debug)]
pub struct Journal<S> {
    log: SignLog<S>,
    identity: Identity,
    states: BTreeMap<VmId, Option<VmState>>,
    compact_at: u64,
}

impl<S: Storage> Journal<S> {
    /// Reads the states back.
    ///
    /// # Errors
    /// `SignStateMissing` for the log of another identity, `WalCorrupt` for records that do not decode, storage errors.
    pub fn restore(opened: Opened<S>, context: &Context) -> Result<Self, SignLogError> {
        let identity = Identity::of(context);
        let mut entries = opened.entries.iter();
        let found = entries.next().and_then(Identity::read).ok_or_else(|| foreign("it names no identity"))?;
        found.check_continued_by(&identity, context).map_err(|reason| foreign(&reason))?;
        let mut states = BTreeMap::new();
        for entry in entries {
            for (vm, record) in decode(entry)? {
                VmState::apply_to(states.entry(vm).or_default(), &record);
            }
        }
        let mut journal = Self { log: opened.log, identity, states, compact_at: 0 };
        if found == identity {
            journal.plan_compaction();
        } else {
            // Before anything is signed in the new epoch, so that a start in the old one is refused from here on.
            journal.compact()?;
        }
        Ok(journal)
    }

    /// Makes a batch durable. `written` runs between the write and the sync.
    ///
    /// # Errors
    /// As [`SignLog::append`].
    pub fn append(&mut self, batch: &[Change], written: impl FnOnce()) -> Result<(), SignLogError> {
        self.log.append_then(BATCH, &to_bytes(batch), written)?;
        for (vm, record) in batch {
            VmState::apply_to(self.states.entry(*vm).or_default(), record);
        }
        Ok(())
    }

    /// Bytes of the log in use.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// Whether the log should be replaced by its states.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        self.log.size() > self.compact_at
    }

    /// Replaces the log by the states it leads to.
    ///
    /// # Errors
    /// As [`SignLog::rewrite`].
    pub fn compact(&mut self) -> Result<(), SignLogError> {
        let states = self.states.iter().filter_map(|(vm, state)| Some((*vm, state.clone()?)));
        let snapshots = states.map(|(vm, state)| {
            let batch = [(vm, Record::Snapshot { state: Box::new(state) })];
            Entry { kind: BATCH, payload: to_bytes(&batch[..]) }
        });
        let entries: Vec<Entry> = std::iter::once(self.identity.entry()).chain(snapshots).collect();
        self.log.rewrite(&entries)?;
        self.plan_compaction();
        Ok(())
    }

    fn plan_compaction(&mut self) {
        let states: usize = self.states.values().flatten().map(|state| to_bytes(state).len()).sum();
        self.compact_at = COMPACTION_BYTES.max(4 * states as u64);
    }

    /// The states of all VMs.
    pub fn states(&self) -> impl Iterator<Item = (VmId, &VmState)> {
        self.states.iter().filter_map(|(vm, state)| Some((*vm, state.as_ref()?)))
    }
}

fn foreign(reason: &str) -> SignLogError {
    SignLogError::SignStateMissing { path: "sign-log".into(), reason: reason.to_owned() }
}

fn decode(entry: &Entry) -> Result<Vec<Change>, SignLogError> {
    // The checksum was right, so this is not damage but another version, or a bug: either way it cannot be obeyed.
    let unknown = || SignLogError::WalCorrupt { offset: 0 };
    if entry.kind != BATCH {
        return Err(unknown());
    }
    from_bytes(&entry.payload, PAYLOAD_BYTES_MAX).map_err(|_| unknown())
}
