//! Why a command failed, and what to do about it.

use std::fmt::Display;
use std::path::Path;

use quorate_verifier::config::Problem;
use quorate_verifier::key_file::KeyFileError;
use quorate_vmm::MachineError;
use quorate_vmm::checkpoint::CheckpointError;
use quorate_vmm::execution::{ExecutionError, ReplayError};
use quorate_vmm::image::ImageError;

use super::exit;
use crate::cluster::ClusterError;
use crate::control_client::ControlError;
use quorate_host::client::hosts::HostError;
use quorate_ordering::orderer::OrderError;

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// Stable identifier.
    pub kind: String,
    /// What happened.
    pub text: String,
    /// What to do next.
    pub next: Option<String>,
}

impl Failure {
    /// A failure with an exit code of its own.
    pub fn new(code: u8, kind: &str, text: impl Display) -> Self {
        Self { code, kind: kind.to_owned(), text: text.to_string(), next: None }
    }

    /// Something was examined and refused.
    pub fn refused(kind: &str, text: impl Display) -> Self {
        Self::new(exit::REFUSED, kind, text)
    }

    /// The command line makes no sense.
    pub fn usage(text: impl Display) -> Self {
        Self::new(exit::USAGE, "Usage", text)
    }

    /// A file named on the command line cannot be read or written.
    pub fn file(path: &Path, error: impl Display) -> Self {
        Self::new(exit::USAGE, "FileUnreadable", format!("{}: {error}", path.display()))
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(self, advice: impl Display) -> Self {
        Self { next: Some(advice.to_string()), ..self }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let next = match &error {
            KeyFileError::TooOpen { path, .. } => format!("chmod 600 {}", path.display()),
            KeyFileError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                "choose another name: a key is never overwritten".to_owned()
            }
            _ => "make a key with `quorate key generate --role ROLE --out FILE`".to_owned(),
        };
        Self::new(error.exit_code(), error.kind(), error).next(next)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(problem.exit_code, "BadConfig", problem)
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::refused(error.kind(), &error)
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        let code = match &error {
            MachineError::KvmUnavailable { .. } => exit::NOT_PERMITTED,
            _ => exit::REFUSED,
        };
        Self::new(code, error.kind(), &error)
    }
}

impl From<ExecutionError> for Failure {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::Machine(error) => error.into(),
            other => Self::refused(other.kind(), &other),
        }
    }
}

impl From<ReplayError> for Failure {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Machine(error) => error.into(),
            other => Self::refused(other.kind(), &other),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Machine(error) => error.into(),
            CheckpointError::Execution(error) => error.into(),
            CheckpointError::Storage { .. } => Self::new(exit::STORAGE, error.kind(), &error),
            other => Self::refused(other.kind(), &other),
        }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        let (code, next) = match &error {
            ClusterError::ProgramMissing { .. } => {
                (exit::CONFIGURATION, Some("cargo build --release, or name the folder with --programs DIR"))
            }
            ClusterError::NoCluster { .. } => (
                exit::CONFIGURATION,
                Some("make one with `quorate cluster init DIR`, or name its folder (QUORATE_CLUSTER)"),
            ),
            ClusterError::NodeFailed { status, .. } => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                (code.filter(|code| *code != 0).unwrap_or(exit::REFUSED), None)
            }
            ClusterError::NotReady { .. } => (exit::RETRY, Some("the machine may be overloaded; try again")),
            ClusterError::Io { .. } => (exit::STORAGE, None),
            _ => (exit::CONFIGURATION, None),
        };
        let failure = Self::new(code, error.kind(), &error);
        match next {
            Some(next) => failure.next(next),
            None => failure,
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let code = match error.kind() {
            "KvmUnavailable" => exit::NOT_PERMITTED,
            "QuorumUnreachable" | "QuorumNotReached" => exit::NO_QUORUM,
            "PeerTimeout" | "HostOccupied" | "Busy" => exit::RETRY,
            _ => exit::REFUSED,
        };
        Self::new(code, error.kind(), &error)
    }
}

impl From<quorate_transport::TransportError> for Failure {
    fn from(error: quorate_transport::TransportError) -> Self {
        Self::new(exit::RETRY, error.kind(), &error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let error = match error {
            ControlError::Order(error) => return error.into(),
            ControlError::Host(error) => return error.into(),
            other => other,
        };
        let code = match &error {
            ControlError::System(_) => exit::RETRY,
            ControlError::Recovery(_) => exit::NO_QUORUM,
            _ => exit::REFUSED,
        };
        let failure = Self::new(code, error.kind(), &error);
        match error.kind() {
            "Conflict" => failure.next("see who is first with `quorate vm show` and `quorate log tail`"),
            "NotAuthorized" => failure.next("use the key of an operator of the orchestrators' group"),
            _ => failure,
        }
    }
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        order_failure(&error)
    }
}

fn order_failure(error: &OrderError) -> Failure {
    match error {
        OrderError::QuorumUnreachable { .. } => Failure::new(exit::NO_QUORUM, error.kind(), error)
            .next("see which nodes answer with `quorate cluster status`, and what was ordered with `quorate log tail`"),
        _ => Failure::refused(error.kind(), error),
    }
}

impl From<quorate_attest::VerifyError> for Failure {
    fn from(error: quorate_attest::VerifyError) -> Self {
        Self::refused(error.kind(), &error)
    }
}
