//! What a host must still know after a crash, durable before anybody acts on it.
//!
//! The journal is a sign-log file (frames with checksums, one `fdatasync` an entry) whose entries are borsh [`Record`]s.
//! Large things lie beside it: the image, and the base checkpoint of a VM that arrived by migration. A VM is rebuilt
//! from its base (or from genesis) by replaying the inputs of all journalled slots.

use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{Nonce, OperationId, Slot};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{
    ActivationCertificate, DecisionCertificate, Relinquish, SlotCertificate, SlotStatement, VmSpec,
};
use quorate_verifier::protocol::{IMAGE_BYTES_MAX, Propose, Register};
use quorate_verifier::sign_log::{DataDir, Entry, FileStorage, PAYLOAD_BYTES_MAX, SignLog, SignLogError};

const FOLDER: &str = "vm";
const IMAGE_FILE: &str = "image";
/// A journal larger than this is shortened: a newer base state replaces the inputs before it.
const BYTES_MAX: u64 = 64 << 20;
const KIND: u8 = 1;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[allow(clippy::large_enum_variant, reason = "written once and folded at start")]
pub enum Record {
    /// The directory belongs to a host.
    Created,
    /// The host took on a VM; its image lies beside the journal.
    Vm(VmSpec),
    /// The state of this slot lies in the base checkpoint.
    Base(Base),
    /// A slot ended here or was followed here.
    Slot(Propose),
    /// The VM was given away.
    Relinquished {
        /// This host's signed word.
        relinquish: Relinquish,
        /// Operation that began the migration.
        migration: OperationId,
    },
    /// The VM was given to this host, which is about to ask for votes for `instance`.
    Handover {
        /// The source's signed word.
        relinquish: Relinquish,
        /// Certificate of the slot before.
        before: SlotCertificate,
        /// The order that the migration follows.
        order: DecisionCertificate,
        /// Identity of the instance that will be activated.
        instance: Nonce,
    },
    /// A generation began; `activation.host` says where.
    Generation(ActivationCertificate),
    /// The VM is no longer here.
    Gone,
    /// This host was granted the VM at the slot it holds, and is about to ask for votes.
    Recovery(Recovery),
}

/// A generation that was granted to this host because the one before has no host any more.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Recovery {
    /// The orchestrators' word.
    pub grant: DecisionCertificate,
    /// Certificate of the granted slot.
    pub certificate: SlotCertificate,
    /// Identity of the instance that is to be activated.
    pub instance: Nonce,
}

/// A slot whose state lies in the base checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Base {
    /// The slot.
    pub certificate: SlotCertificate,
    /// How its generation began, unless it is generation 0.
    pub activation: Option<ActivationCertificate>,
    /// The statement log up to and including the slot.
    pub statements: Frontier<Sha256Tree>,
    /// The statements before the slot, oldest first, as far as they are kept.
    pub history: Vec<SlotStatement>,
}

/// All that a journal tells about the VM it holds.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The VM and its image, unless the host is empty.
    pub register: Option<Register>,
    /// Where its state begins; genesis if absent.
    pub base: Option<Base>,
    /// Its slots after the base, in order.
    pub slots: Vec<Propose>,
    /// The newest relinquishment, with the operation that began its migration.
    pub relinquished: Option<(Relinquish, OperationId)>,
    /// The newest handover to this host.
    pub handover: Option<Handed>,
    /// The newest recovery by this host.
    pub recovery: Option<Recovery>,
    /// The newest generation.
    pub generation: Option<ActivationCertificate>,
    /// All generations.
    pub generations: Vec<ActivationCertificate>,
}

/// A handover to this host.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The source's signed word.
    pub relinquish: Relinquish,
    /// Certificate of the slot before.
    pub before: SlotCertificate,
    /// The order that the migration follows.
    pub order: DecisionCertificate,
    /// Identity of the instance that is to be activated.
    pub instance: Nonce,
}

/// The open journal of a host.
#[derive(Debug)]
pub struct Journal {
    dir: DataDir,
    log: SignLog<FileStorage>,
}

impl Journal {
    /// Locks the directory and reads its journal; an empty or missing directory becomes that of a new host.
    ///
    /// # Errors
    /// `DataDirLocked`, `WalCorrupt`, storage errors, `SnapshotInvalid` for records that do not decode.
    pub fn open(path: &Path) -> Result<(Self, History), JournalError> {
        if !path.join(quorate_verifier::sign_log::LOG_FILE).exists() {
            DataDir::init(path, &entry(&Record::Created))?;
        }
        let (dir, opened) = DataDir::open(path)?;
        if let Some(bytes) = opened.torn {
            tracing::warn!(error_kind = "WalTornTail", bytes, "the journal's torn tail was cut");
        }
        let mut history = History::default();
        for (index, entry) in opened.entries.iter().enumerate() {
            let record = from_bytes::<Record>(&entry.payload, PAYLOAD_BYTES_MAX)
                .map_err(|error| JournalError::Record { index, reason: error.to_string() })?;
            history.fold(record, &dir)?;
        }
        Ok((Self { dir, log: opened.log }, history))
    }

    /// Makes a record durable.
    ///
    /// # Errors
    /// The first storage error closes the journal; the process must end.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let entry = entry(record);
        Ok(self.log.append(entry.kind, &entry.payload)?)
    }

    /// Takes on a VM: forgets everything about the one before.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn adopt(&mut self, register: &Register) -> Result<(), JournalError> {
        self.dir.write(FOLDER, IMAGE_FILE, &register.image).map_err(JournalError::File)?;
        self.log.rewrite(&[entry(&Record::Created), entry(&Record::Vm(register.spec.clone()))])?;
        self.remove_bases_but(None);
        Ok(())
    }

    /// Where the base checkpoint of a slot belongs.
    pub fn base_path(&self, slot: Slot) -> PathBuf {
        self.dir.path().join(FOLDER).join(format!("base-{}.checkpoint", slot.0))
    }

    /// Whether a newer base state should replace the inputs before it.
    pub fn is_long(&self) -> bool {
        self.log.size() > BYTES_MAX
    }

    /// Replaces everything about the VM by what `history` says. Its base checkpoint must be durable.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn shorten(&mut self, history: &History) -> Result<(), JournalError> {
        let Some(register) = &history.register else { return Ok(()) };
        let mut records = vec![Record::Created, Record::Vm(register.spec.clone())];
        records.extend(history.generations.iter().cloned().map(Record::Generation));
        records.extend(history.base.clone().map(Record::Base));
        records.extend(history.slots.iter().cloned().map(Record::Slot));
        let entries: Vec<_> = records.iter().map(entry).collect();
        self.log.rewrite(&entries)?;
        self.remove_bases_but(history.base.as_ref().map(|base| base.certificate.statement.slot));
        Ok(())
    }

    /// Where a state belongs that was pulled and is not taken up yet.
    pub fn pulled_path(&self) -> PathBuf {
        self.dir.path().join(FOLDER).join("pulled")
    }

    /// Takes up a VM at a certified slot, whose state lies in [`Journal::pulled_path`] and is durable. After a crash there is
    /// either nothing or everything that [`Record::Recovery`] needs.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn recover(
        &mut self,
        register: &Register,
        base: &Base,
        recovery: &Recovery,
    ) -> Result<(), JournalError> {
        let slot = base.certificate.statement.slot;
        self.append(&Record::Gone)?;
        self.place(slot).map_err(JournalError::File)?;
        self.dir.write(FOLDER, IMAGE_FILE, &register.image).map_err(JournalError::File)?;
        let records = [
            Record::Created,
            Record::Vm(register.spec.clone()),
            Record::Base(base.clone()),
            Record::Recovery(recovery.clone()),
        ];
        let entries: Vec<_> = records.iter().map(entry).collect();
        self.log.rewrite(&entries)?;
        self.remove_bases_but(Some(slot));
        Ok(())
    }

    fn place(&self, slot: Slot) -> std::io::Result<()> {
        std::fs::rename(self.pulled_path(), self.base_path(slot))?;
        std::fs::File::open(self.dir.path().join(FOLDER))?.sync_all()
    }

    /// Frees the space of base checkpoints that no record names any more.
    fn remove_bases_but(&self, kept: Option<Slot>) {
        let kept = kept.map(|slot| self.base_path(slot));
        let folder = self.dir.path().join(FOLDER);
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint")) {
            if Some(&path) != kept.as_ref()
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an old checkpoint could not be removed");
            }
        }
    }
}

impl History {
    fn fold(&mut self, record: Record, dir: &DataDir) -> Result<(), JournalError> {
        match record {
            Record::Created => {}
            Record::Vm(spec) => {
                let image =
                    dir.read(FOLDER, IMAGE_FILE, IMAGE_BYTES_MAX as u64).map_err(JournalError::File)?;
                *self = Self { register: Some(Register { spec, image }), ..Self::default() };
            }
            Record::Base(base) => {
                let first = base.certificate.statement.slot;
                self.slots.retain(|slot| slot.proposal.statement.slot > first);
                if let Some(activation) = &base.activation
                    && !self.generations.contains(activation)
                {
                    self.generations.insert(0, activation.clone());
                }
                self.base = Some(base);
            }
            Record::Slot(propose) => self.slots.push(propose),
            Record::Relinquished { relinquish, migration } => {
                self.relinquished = Some((relinquish, migration));
            }
            Record::Handover { relinquish, before, order, instance } => {
                self.handover = Some(Handed { relinquish, before, order, instance });
            }
            Record::Generation(certificate) => {
                self.generations.push(certificate.clone());
                self.generation = Some(certificate);
            }
            Record::Gone => *self = Self::default(),
            Record::Recovery(recovery) => self.recovery = Some(recovery),
        }
        Ok(())
    }

    /// The newest slot, if any was journalled.
    pub fn newest(&self) -> Option<Slot> {
        let base = self.base.as_ref().map(|base| base.certificate.statement.slot);
        self.slots.last().map(|slot| slot.proposal.statement.slot).or(base)
    }
}

fn entry(record: &Record) -> Entry {
    Entry { kind: KIND, payload: to_bytes(record) }
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The log file failed.
    #[error(transparent)]
    Log(#[from] SignLogError),
    /// A file beside it failed.
    #[error("a file of the host's data directory failed: {0}")]
    File(std::io::Error),
    /// A record does not decode.
    #[error("record {index} of the journal does not decode: {reason}")]
    Record {
        /// Its number.
        index: usize,
        /// The decoder's word.
        reason: String,
    },
}

impl JournalError {
    /// Stable identifier of threats.md.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Log(error) => error.kind(),
            Self::File(_) => "StorageSyncFailed",
            Self::Record { .. } => "WalCorrupt",
        }
    }

    /// Exit code of a process that meets this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Log(error) => error.exit_code(),
            Self::File(_) | Self::Record { .. } => quorate_verifier::exit::STORAGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{group, source, spec, statement};
    use quorate_attest::vm::Proposal;

    fn slot(number: u64) -> Record {
        let proposal = Proposal::sign(statement(&group(4, 1), number, 0), &source());
        Record::Slot(Propose { proposal, inputs: vec![vec![number as u8]] })
    }

    fn register() -> Register {
        Register { spec: spec(), image: b"elf".to_vec() }
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, history) = Journal::open(folder.path()).unwrap();
        assert!(history.register.is_none());
        journal.adopt(&register()).unwrap();
        journal.append(&slot(0)).unwrap();
        journal.append(&slot(1)).unwrap();
        drop(journal);
        let (_, history) = Journal::open(folder.path()).unwrap();
        assert_eq!(history.register, Some(register()));
        assert_eq!(history.newest(), Some(Slot(1)));
    }

    #[test]
    fn a_shortened_journal_begins_at_its_new_base() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        journal.adopt(&register()).unwrap();
        (0..4).for_each(|number| journal.append(&slot(number)).unwrap());
        let group = group(4, 1);
        let statement = statement(&group, 2, 0);
        let attestations =
            [0, 1, 2].map(|index| crate::tests::fixture::attestation(&statement, index)).to_vec();
        let base = Base {
            certificate: SlotCertificate { statement, attestations },
            activation: None,
            statements: Frontier::new(),
            history: Vec::new(),
        };
        std::fs::write(journal.base_path(Slot(1)), b"old").unwrap();
        std::fs::write(journal.base_path(Slot(2)), b"new").unwrap();
        let Record::Slot(last) = slot(3) else { unreachable!() };
        let shortened = History {
            register: Some(register()),
            base: Some(base.clone()),
            slots: vec![last.clone()],
            ..History::default()
        };
        journal.shorten(&shortened).unwrap();
        assert!(!journal.base_path(Slot(1)).exists() && journal.base_path(Slot(2)).exists());
        drop(journal);
        let (_, history) = Journal::open(folder.path()).unwrap();
        assert_eq!((history.base, history.slots), (Some(base), vec![last]));
    }

    #[test]
    fn a_recovered_vm_is_there_with_its_grant_and_nothing_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        let older = Register { image: b"older".to_vec(), ..register() };
        journal.adopt(&older).unwrap();
        journal.append(&slot(0)).unwrap();
        std::fs::write(journal.base_path(Slot(2)), b"of the one before").unwrap();
        let recovery = crate::tests::fixture::recovery(&group(4, 1), 2);
        let base = Base {
            certificate: recovery.certificate.clone(),
            activation: None,
            statements: Frontier::new(),
            history: Vec::new(),
        };
        assert!(journal.recover(&register(), &base, &recovery).is_err(), "no state was pulled");
        drop(journal);
        let (mut journal, history) = Journal::open(folder.path()).unwrap();
        assert!(history.register.is_none() && history.recovery.is_none(), "nothing is half there");

        std::fs::write(journal.pulled_path(), b"state").unwrap();
        journal.recover(&register(), &base, &recovery).unwrap();
        assert_eq!(std::fs::read(journal.base_path(Slot(2))).unwrap(), b"state");
        drop(journal);
        let (_, history) = Journal::open(folder.path()).unwrap();
        assert_eq!((history.register, history.base), (Some(register()), Some(base)));
        assert_eq!((history.recovery, history.slots), (Some(recovery), Vec::new()));
    }

    #[test]
    fn a_vm_that_left_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        journal.adopt(&register()).unwrap();
        journal.append(&slot(0)).unwrap();
        journal.append(&Record::Gone).unwrap();
        drop(journal);
        let (_, history) = Journal::open(folder.path()).unwrap();
        assert!(history.register.is_none() && history.slots.is_empty());
    }

    #[test]
    fn two_processes_cannot_have_one_journal() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Journal::open(folder.path()).unwrap();
        let second = Journal::open(folder.path()).map(|_| ()).unwrap_err();
        assert_eq!(second.kind(), "DataDirLocked");
    }
}
