//! A group, services, receipts, logs, and a device that loses power.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_attest::id::{Epoch, GroupId, OperationId, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, consistency_proof, root};
use quorate_attest::service::ServiceReceipt;
use quorate_attest::state_tree::StateCommitment;
use quorate_verifier::sign_log::{SignLog, Storage};

use crate::journal::JournalError;
use crate::protocol::{CosignRequest, Head, ToSigner};
use crate::rules::{Allowed, Rules};
use crate::signer::{Keys, Signer};

pub(crate) const ORIGIN: &str = "demo/kv";

pub(crate) fn rules() -> Rules {
    Rules {
        group: GroupId::from_bytes([7; 32]),
        group_name: "demo".to_owned(),
        epoch: Epoch(3),
        receipts: Allowed::Any,
        logs: Allowed::Any,
    }
}

pub(crate) fn keys() -> Keys {
    Keys {
        vote: SecretKey::from_seed([1; 32]),
        cosigner: SecretKey::from_seed([2; 32]),
        cosigner_name: "demo/replica-0".to_owned(),
    }
}

pub(crate) fn service(number: u16) -> ServiceId {
    let mut bytes = [9; 32];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    ServiceId::from_bytes(bytes)
}

/// Two receipts of one service and number differ in `result`.
pub(crate) fn receipt(of: u16, number: u64, result: u8) -> ServiceReceipt {
    ServiceReceipt {
        group: rules().group,
        epoch: rules().epoch,
        service: service(of),
        number,
        log_index: number,
        operation: OperationId::from_bytes([4; 32]),
        result: [result; 32],
        log_root: [5; 32],
        log_size: number + 1,
        state: StateCommitment { root: [6; 32], size: 2 },
    }
}

pub(crate) fn statement(of: u16, number: u64, result: u8) -> Vec<u8> {
    receipt(of, number, result).to_statement().encode()
}

pub(crate) fn ask(statements: &[(u16, u64, u8)]) -> ToSigner {
    let statements = statements.iter().map(|&(of, number, result)| statement(of, number, result));
    ToSigner::Sign { statements: statements.collect() }
}

/// A log that goes on differently on each branch after `fork` entries.
pub(crate) fn leaves(branch: u8, fork: u64, size: u64) -> Vec<Digest> {
    (0..size).map(|at| Sha256Tree::leaf(&[if at < fork { 0 } else { branch }, at as u8])).collect()
}

/// The request for the head of `size` entries of a branch, with the proof from its first `old_size` entries.
pub(crate) fn head(branch: u8, fork: u64, old_size: u64, size: u64) -> CosignRequest {
    let leaves = leaves(branch, fork, size);
    let head = Head { origin: ORIGIN.to_owned(), size, root: root::<Sha256Tree>(&leaves) };
    let proof = consistency_proof::<Sha256Tree>(&leaves, old_size).unwrap_or_default();
    CosignRequest { old_size, head, proof }
}

/// A device in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Device(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What a reader sees.
    pub(crate) written: Vec<u8>,
    /// What survives a power cut.
    pub(crate) synced: Vec<u8>,
    /// Syncs so far.
    pub(crate) syncs: usize,
    /// The next sync fails.
    pub(crate) broken: bool,
}

impl Device {
    pub(crate) fn with(bytes: &[u8]) -> Self {
        let device = Self::default();
        device.disk().written = bytes.to_vec();
        device.disk().synced = bytes.to_vec();
        device
    }

    /// A device with the sign-log of the fixtures' identity.
    pub(crate) fn initialised() -> Self {
        let device = Self::default();
        let mut log = SignLog::open(device.clone()).unwrap().log;
        log.rewrite(&[keys().identity(&rules()).entry()]).unwrap();
        device
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// The process is killed: what was written stays.
    pub(crate) fn after_kill(&self) -> Self {
        let written = self.disk().written.clone();
        Self::with(&written)
    }

    /// The power fails: what was synced stays.
    pub(crate) fn after_power_cut(&self) -> Self {
        let synced = self.disk().synced.clone();
        Self::with(&synced)
    }

    pub(crate) fn signer(&self) -> Signer<Self> {
        self.signer_with(rules(), keys()).unwrap()
    }

    pub(crate) fn signer_with(&self, rules: Rules, keys: Keys) -> Result<Signer<Self>, JournalError> {
        Signer::new(SignLog::open(self.clone())?, rules, keys)
    }
}

impl Storage for Device {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.disk().written.clone())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let written = &mut self.disk().written;
        let (at, end) = (offset as usize, offset as usize + bytes.len());
        if written.len() < end {
            written.resize(end, 0);
        }
        written[at..end].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.syncs += 1;
        if disk.broken {
            return Err(io::Error::other("EIO"));
        }
        disk.synced = disk.written.clone();
        Ok(())
    }

    fn keep_broken(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.written = bytes.to_vec();
        disk.synced = bytes.to_vec();
        Ok(())
    }
}
