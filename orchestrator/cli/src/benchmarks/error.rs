//! Why something could not be measured.

use quorate_services::ServiceError;
use quorate_transport::TransportError;
use quorate_vmm::checkpoint::CheckpointError;
use quorate_vmm::image::ImageError;
use quorate_vmm::machine::layout::LayoutError;
use quorate_vmm::state_stream::StateStreamError;
use quorate_vmm::{ExecutionError, MachineError, ReplayError};

use crate::cluster::ClusterError;
use crate::control_client::ControlError;
use quorate_host::client::CallError;
use quorate_host::client::hosts::HostError;
use quorate_host::vm_thread::VmFailure;
use quorate_ordering::orderer::OrderError;

/// The part that failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// An execution.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// A replay.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A stream of state.
    #[error(transparent)]
    Stream(#[from] StateStreamError),
    /// A connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An order was not carried out.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A request.
    #[error(transparent)]
    Call(#[from] CallError),
    /// An ordered service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A VM's thread.
    #[error(transparent)]
    Vm(#[from] VmFailure),
    /// The system.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// Something else happened than what was to be measured.
    #[error("{0}")]
    Unexpected(String),
}

impl BenchError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::Machine(error) => error.kind(),
            Self::Execution(error) => error.kind(),
            Self::Replay(error) => error.kind(),
            Self::Image(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Stream(error) => error.kind(),
            Self::Transport(error) => error.kind(),
            Self::Cluster(error) => error.kind(),
            Self::Host(error) => error.kind(),
            Self::Control(error) => error.kind(),
            Self::Call(error) => error.kind(),
            Self::Service(error) => error.kind(),
            Self::Vm(failure) => &failure.kind,
            Self::System(_) => "SystemRefused",
            Self::Unexpected(_) => "NotMeasured",
        }
    }

    /// For `ok_or_else` and `map_err`.
    pub fn unexpected(what: impl std::fmt::Display) -> Self {
        Self::Unexpected(what.to_string())
    }
}

impl From<OrderError> for BenchError {
    fn from(error: OrderError) -> Self {
        Self::Control(error.into())
    }
}

impl From<LayoutError> for BenchError {
    fn from(error: LayoutError) -> Self {
        Self::Machine(error.into())
    }
}
