//! Writes what an auditor needs about a VM into a folder that `quorate verify` accepts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::Slot;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, inclusion_proof, root};
use quorate_attest::note::{Assembler, Note, SignatureLine};
use quorate_attest::policy::Policy;
use quorate_attest::tlog_proof::TlogProof;
use quorate_attest::vm::{ActivationCertificate, SlotCertificate, VmSpec, head_checkpoint, statement_leaf};
use quorate_verifier::config::group_file;

use super::exit;
use super::failure::Failure;
use quorate_host::client::hosts::SlotRecords;

/// Everything about one VM, collected from the hosts that ran it.
#[derive(Clone, Debug)]
pub struct Records {
    /// The VM.
    pub spec: VmSpec,
    /// One certificate a slot.
    pub slots: BTreeMap<Slot, SlotCertificate>,
    /// Activation certificates by generation.
    pub activations: BTreeMap<u64, ActivationCertificate>,
    /// Cosignature lines, by the slot whose head they cover.
    pub cosignatures: BTreeMap<Slot, Vec<String>>,
}

/// Writes one file of the folder.
type Put<'a> = dyn Fn(&str, &[u8]) -> Result<(), Failure> + 'a;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Slot certificates.
    pub slots: usize,
    /// Whether enough cosignatures were there for a head.
    pub head: bool,
}

impl Records {
    /// No slots yet.
    pub fn new(spec: VmSpec) -> Self {
        let (slots, activations, cosignatures) = Default::default();
        Self { spec, slots, activations, cosignatures }
    }

    /// Adds what one host told. The first certificate of a slot is kept.
    pub fn add(&mut self, told: SlotRecords) {
        if let Some(last) = told.certificates.last() {
            self.cosignatures.insert(last.statement.slot, told.cosignatures);
        }
        for certificate in told.certificates {
            self.slots.entry(certificate.statement.slot).or_insert(certificate);
        }
        for activation in told.activations {
            self.activations.entry(activation.activation.generation.get()).or_insert(activation);
        }
    }

    /// Writes all files; `proven` is the slot that gets an inclusion proof of its own.
    pub fn write(
        &self,
        folder: &Path,
        group: &GroupConfig,
        orchestrators: &GroupConfig,
        proven: Slot,
    ) -> Result<Written, Failure> {
        fs::create_dir_all(folder).map_err(|error| storage(folder, error))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(|error| storage(&path, error))
        };
        put("group.toml", group_file::to_text(group).as_bytes())?;
        put("orchestrators.toml", group_file::to_text(orchestrators).as_bytes())?;
        put("vm.spec", &self.spec.encoded())?;
        let policy = Policy::text_for_group(group, None).map_err(|error| refuse(&error))?;
        put("policy.txt", policy.as_bytes())?;
        for (slot, certificate) in &self.slots {
            put(&format!("{}.cert", name_of(*slot)), &certificate.encoded())?;
        }
        for (generation, certificate) in &self.activations {
            put(&format!("generation-{generation:06}.activation"), &certificate.encoded())?;
        }
        let head = self.head(group)?;
        if let Some((note, leaves)) = &head {
            put("head.note", note.to_string().as_bytes())?;
            self.write_proof(&put, note, leaves, proven)?;
        }
        put("README.md", self.readme(group, proven, head.is_some()).as_bytes())?;
        Ok(Written { slots: self.slots.len(), head: head.is_some() })
    }

    fn write_proof(
        &self,
        put: &Put<'_>,
        note: &Note,
        leaves: &[Digest],
        proven: Slot,
    ) -> Result<(), Failure> {
        let path = inclusion_proof::<Sha256Tree>(leaves, proven.get());
        let (Some(path), Some(certificate)) = (path, self.slots.get(&proven)) else { return Ok(()) };
        let proof = TlogProof { extra: None, index: proven.get(), path, checkpoint: note.clone() };
        put(&format!("{}.tlog-proof", name_of(proven)), proof.to_string().as_bytes())?;
        put(&format!("{}.statement", name_of(proven)), &statement_leaf(&certificate.statement))
    }

    /// The newest head that a quorum cosigned, with the leaves under it. None while cosignatures are missing.
    fn head(&self, group: &GroupConfig) -> Result<Option<(Note, Vec<Digest>)>, Failure> {
        let quorum = group.rule().map_err(|error| refuse(&error))?.quorum();
        let keys: Result<Vec<_>, _> =
            (0..group.members.len()).map(|index| group.cosigner(index as u16)).collect();
        let keys = keys.map_err(|error| refuse(&error))?;
        for (slot, lines) in self.cosignatures.iter().rev() {
            let Some(leaves) = self.leaves(*slot) else { continue };
            let size = leaves.len() as u64;
            let Ok(checkpoint) = head_checkpoint(&self.spec.id(), size, root::<Sha256Tree>(&leaves)) else {
                continue;
            };
            let Ok(mut assembler) = Assembler::new(&checkpoint.to_text(), keys.clone()) else { continue };
            // A line that does not verify would spoil the whole note for everybody.
            let good = lines.iter().filter_map(|line| line.parse::<SignatureLine>().ok());
            let count = good.filter(|line| assembler.add(line.clone()).is_ok()).count();
            if count as u64 >= quorum
                && let Ok(note) = assembler.note()
            {
                return Ok(Some((note, leaves)));
            }
        }
        Ok(None)
    }

    /// Leaves of the log up to a slot, if every slot is here.
    fn leaves(&self, last: Slot) -> Option<Vec<Digest>> {
        let all = self.slots.range(..=last);
        let leaves: Vec<Digest> =
            all.map(|(_, certificate)| Sha256Tree::leaf(&statement_leaf(&certificate.statement))).collect();
        (leaves.len() as u64 == last.get().checked_add(1)?).then_some(leaves)
    }

    fn readme(&self, group: &GroupConfig, proven: Slot, has_head: bool) -> String {
        let (vm, group_id) = (self.spec.id(), group.id());
        let last = self.slots.keys().next_back().copied().unwrap_or_default();
        let proof = match has_head {
            true => format!(
                "- `head.note`: the head of the VM's statement log, a C2SP checkpoint cosigned by the verifiers\n\
                 - `{0}.tlog-proof`, `{0}.statement`: proof that slot {proven} is in that log (C2SP tlog-proof)\n",
                name_of(proven)
            ),
            false => String::from("- no head: fewer cosignatures than a quorum came in\n"),
        };
        format!(
            "# Certificates of VM `{name}`\n\n\
             VM `{vm}`, group `{group_id}`, slots 0 to {last}.\n\n\
             Check everything offline:\n\n    quorate verify .\n\n\
             - `group.toml`: the verifiers, their keys, and how many of them may be Byzantine (f = {f})\n\
             - `orchestrators.toml`: the orchestrators, whose ordered log grants generations\n\
             - `vm.spec`: the VM's specification; its SHA-256 under the domain `quorate-vm-v1` is the VM's id\n\
             - `policy.txt`: the same quorum as a C2SP tlog-policy\n\
             - `slot-*.cert`: one certificate a slot: memory, registers, inputs and outputs, and who attested them how\n\
             - `generation-*.activation`: who may run the VM from which slot on, and why\n\
             {proof}\n\
             The files come from the hosts, who are not trusted. What makes them believable are the two group files: get them from\n\
             somebody you trust, and name it with `--group`.\n",
            name = self.spec.name,
            f = group.f,
        )
    }
}

/// Name of a slot's files, so that they sort by number.
pub fn name_of(slot: Slot) -> String {
    format!("slot-{:06}", slot.get())
}

fn storage(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(exit::STORAGE, "StorageFailed", format!("{}: {error}", path.display()))
}

fn refuse(error: &quorate_attest::VerifyError) -> Failure {
    Failure::refused(error.kind(), error)
}
