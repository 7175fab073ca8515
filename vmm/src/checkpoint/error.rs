//! Why a checkpoint cannot be read, written or restored.

use std::io;
use std::path::PathBuf;

use quorate_attest::id::PlatformClass;

use crate::cpu::CpuStateError;
use crate::execution::ExecutionError;
use crate::incoming::IncomingError;
use crate::machine::MachineError;

/// A refusal or failure of this module. Nothing is left half done: a failed write leaves the old file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A field does not say what it must.
    #[error("checkpoint field {field}: {rule}")]
    SnapshotInvalid {
        /// Name of the field or part, as in the format.
        field: &'static str,
        /// What it must say.
        rule: &'static str,
    },
    /// A page does not have the digest the table gives for it.
    #[error("page {index} does not have the digest of its place")]
    ChunkHashMismatch {
        /// Which page.
        index: u32,
    },
    /// A component does not have the digest given for it.
    #[error("the {component} does not have the digest given for it")]
    RootMismatch {
        /// `memory`, `cpu`, `device`, `image` or `parent`.
        component: &'static str,
    },
    /// The checkpoint was made on another kind of platform, where executions may differ.
    #[error("made on platform class {made}, this host is {here}")]
    PlatformMismatch {
        /// Class in the file.
        made: PlatformClass,
        /// Class of this host.
        here: PlatformClass,
    },
    /// The CPU state is no guest's.
    #[error(transparent)]
    Cpu(#[from] CpuStateError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Memory, CPU state and device do not make a machine of the image.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// Machine and input log do not make an execution.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The file system.
    #[error("cannot {operation} {path}: {source}")]
    Storage {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl CheckpointError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SnapshotInvalid { .. } => "SnapshotInvalid",
            Self::ChunkHashMismatch { .. } => "ChunkHashMismatch",
            Self::RootMismatch { .. } => "RootMismatch",
            Self::PlatformMismatch { .. } => "PlatformMismatch",
            Self::Cpu(error) => error.kind(),
            Self::Machine(error) => error.kind(),
            Self::Incoming(error) => error.kind(),
            Self::Execution(error) => error.kind(),
            Self::Storage { source, .. } if source.kind() == io::ErrorKind::StorageFull => "StorageFull",
            Self::Storage { operation: "sync", .. } => "StorageSyncFailed",
            Self::Storage { .. } => "StorageFailed",
        }
    }
}

pub(super) fn invalid(field: &'static str, rule: &'static str) -> CheckpointError {
    CheckpointError::SnapshotInvalid { field, rule }
}
