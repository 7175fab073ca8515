//! Files that can be verified.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use quorate_attest::certificate::Certificate;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::encoding::{Bounded, from_bytes};
use quorate_attest::merkle::Digest;
use quorate_attest::note::Note;
use quorate_attest::statement::MAGIC;
use quorate_attest::tlog_proof::{HEADER, TlogProof};
use quorate_attest::vm::{
    ActivationCertificate, ConflictingCertificates, DoubleVote, Equivocation, Refusal, SlotCertificate,
};
use quorate_ordering::services::StopEvidence;
use quorate_services::{AnswerProof, Contradiction, Dissent};
use quorate_verifier::core::Evidence;

use super::super::failure::Failure;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// Most files of a folder.
const FILES_MAX: usize = 1 << 20;

/// What a file contains. Nothing of it has been verified.
#[derive(Clone, Debug)]
pub enum Material {
    /// A certified slot.
    Slot(Box<SlotCertificate>),
    /// A certified generation.
    Activation(Box<ActivationCertificate>),
    /// Any other certified statement.
    Other(Box<Certificate>),
    /// An entry's place in the log of statements.
    Proof(Box<TlogProof>),
    /// A cosigned head of the log of statements.
    Head(Box<Note>),
    /// Two statements that an honest party never signs both of.
    Evidence(Box<Evidence>),
    /// Two attestations of one verifier.
    DoubleVote(Box<DoubleVote>),
    /// A destination's refusal.
    Refusal(Box<Refusal>),
    /// An answer of a service with its proof.
    Answer(Box<AnswerProof>),
    /// Two receipts of one replica of a service for one entry.
    Contradiction(Box<Contradiction>),
    /// A replica's receipt against what others certify.
    Dissent(Box<Dissent>),
    /// Why a replica of a service stopped.
    StopEvidence(Box<StopEvidence>),
    /// Nothing of these: what is wrong with it.
    Unreadable(String),
}

/// A file with what it contains.
#[derive(Clone, Debug)]
pub struct Item {
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub material: Material,
}

impl Item {
    /// The slot certificate, if it is one.
    pub fn certificate(self) -> Option<(PathBuf, SlotCertificate)> {
        match self.material {
            Material::Slot(certificate) => Some((self.path, *certificate)),
            _ => None,
        }
    }
}

/// Reads one file of any kind.
pub fn read_file(path: &Path) -> Result<Item, Failure> {
    let bytes = read_bytes(path)?;
    Ok(item(path, &bytes))
}

/// What the bytes of a file of this name are.
pub fn item(path: &Path, bytes: &[u8]) -> Item {
    Item { path: path.to_owned(), material: decode(path, bytes) }
}

/// Folder in which a verifier keeps evidence.
const EVIDENCE: &str = "evidence";

/// Reads the files of a folder whose names say that they can be verified, in the order of their names, and the evidence
/// that a verifier keeps in a folder below.
pub fn read_folder(folder: &Path) -> Result<Vec<Item>, Failure> {
    let mut paths = files(folder)?;
    let below = folder.join(EVIDENCE);
    if below.is_dir() {
        paths.extend(files(&below)?);
    }
    paths.iter().map(|path| read_file(path)).collect()
}

/// Files that can be verified alone. A `.bin` beside the proof of the same name is what that proof is about.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let proven = |path: &Path| extension(path) == "bin" && path.with_extension("tlog-proof").exists();
    select(folder, |path| is_material(path) && !proven(path))
}

/// Files of a folder with this extension, in the order of their names.
pub fn files_ending_in(folder: &Path, wanted: &str) -> Result<Vec<PathBuf>, Failure> {
    select(folder, |path| extension(path) == wanted)
}

fn select(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::file(folder, error))?;
    let mut paths = Vec::new();
    for entry in entries.take(FILES_MAX) {
        let path = entry.map_err(|error| Failure::file(folder, error))?.path();
        if path.is_file() && wanted(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A hash in the text form that it has in a checkpoint.
pub fn hash(line: &str) -> Option<Digest> {
    Checkpoint::parse(&format!("hash\n0\n{line}\n")).ok().map(|checkpoint| *checkpoint.root())
}

/// Reads a file up to a size that no honest file has.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Failure::file(path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::file(path, format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_material(path: &Path) -> bool {
    ["cert", "activation", "evidence", "note", "checkpoint", "tlog-proof", "refusal", "answer", "bin"]
        .contains(&extension(path))
}

fn decode(path: &Path, bytes: &[u8]) -> Material {
    match extension(path) {
        "cert" => of(bytes, |certificate| Material::Slot(Box::new(certificate))),
        "activation" => of(bytes, |certificate| Material::Activation(Box::new(certificate))),
        "evidence" => evidence(bytes).unwrap_or_else(|reason| Material::Unreadable(reason.to_owned())),
        "refusal" => of(bytes, |refusal| Material::Refusal(Box::new(refusal))),
        "answer" => of(bytes, |answer| Material::Answer(Box::new(answer))),
        "note" | "checkpoint" => {
            text(bytes, |text| Note::parse(text).map(|note| Material::Head(Box::new(note))))
        }
        "tlog-proof" => {
            text(bytes, |text| TlogProof::parse(text).map(|proof| Material::Proof(Box::new(proof))))
        }
        _ => sniff(bytes),
    }
}

fn of<T: Bounded>(bytes: &[u8], wrap: impl FnOnce(T) -> Material) -> Material {
    match T::decoded(bytes) {
        Ok(value) => wrap(value),
        Err(error) => Material::Unreadable(error.to_string()),
    }
}

fn text<E: std::fmt::Display>(bytes: &[u8], parse: impl FnOnce(&str) -> Result<Material, E>) -> Material {
    let Ok(text) = str::from_utf8(bytes) else { return Material::Unreadable("it is not UTF-8".into()) };
    parse(text).unwrap_or_else(|error| Material::Unreadable(error.to_string()))
}

fn evidence(bytes: &[u8]) -> Result<Material, &'static str> {
    let limit = 16 + 2 * ActivationCertificate::LIMIT.max(SlotCertificate::LIMIT);
    if let Ok(evidence) = from_bytes::<Evidence>(bytes, limit) {
        return Ok(Material::Evidence(Box::new(evidence)));
    }
    if let Ok(pair) = ConflictingCertificates::decoded(bytes) {
        return Ok(Material::Evidence(Box::new(Evidence::ConflictingCertificates(Box::new(pair)))));
    }
    if let Ok(pair) = Equivocation::decoded(bytes) {
        return Ok(Material::Evidence(Box::new(Evidence::Equivocation(Box::new(pair)))));
    }
    let vote = DoubleVote::decoded(bytes).map_err(|_| "it is no evidence of any kind")?;
    Ok(Material::DoubleVote(Box::new(vote)))
}

/// Finds out from the content what a file without a known name is. Signatures are any bytes, so a file may fit two forms:
/// what begins like a statement is one.
fn sniff(bytes: &[u8]) -> Material {
    if let Ok(content) = str::from_utf8(bytes) {
        if content.starts_with(HEADER) {
            return decode(Path::new("x.tlog-proof"), bytes);
        }
        if content.contains("\n\n\u{2014} ") {
            return decode(Path::new("x.note"), bytes);
        }
    }
    if bytes.starts_with(&AnswerProof::MAGIC) {
        return decode(Path::new("x.answer"), bytes);
    }
    if let Ok(pair) = Contradiction::decoded(bytes) {
        return Material::Contradiction(Box::new(pair));
    }
    if let Ok(dissent) = Dissent::decoded(bytes) {
        return Material::Dissent(Box::new(dissent));
    }
    if let Ok(kept) = StopEvidence::decoded(bytes) {
        return Material::StopEvidence(Box::new(kept));
    }
    if bytes.starts_with(&MAGIC) {
        return of(bytes, |certificate| Material::Other(Box::new(certificate)));
    }
    if let Ok(certificate) = SlotCertificate::decoded(bytes) {
        return Material::Slot(Box::new(certificate));
    }
    if let Ok(certificate) = ActivationCertificate::decoded(bytes) {
        return Material::Activation(Box::new(certificate));
    }
    if let Ok(refusal) = Refusal::decoded(bytes) {
        return Material::Refusal(Box::new(refusal));
    }
    evidence(bytes).unwrap_or_else(|_| Material::Unreadable("it is nothing that can be verified".into()))
}
