//! Why the VMM, not the guest, cannot go on.

use crate::cpu::{CpuStateError, ExtendedError};
use crate::machine::layout::LayoutError;
use crate::memory::MemoryError;

/// A failure of the host, or a call that the machine's state does not allow. What a guest does wrong is never one of
/// these: it gets an error code or ends as [`Crashed`](crate::machine::Exit::Crashed).
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This host cannot run guests.
    #[error("KVM is not available: {reason}; {remedy}")]
    KvmUnavailable {
        /// What is missing.
        reason: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// KVM refused a call.
    #[error("KVM refused {call}: {source}")]
    Kvm {
        /// Which call.
        call: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// KVM refused to enter the guest, or gave a state the machine cannot be in.
    #[error("KVM is inconsistent: {0}")]
    Inconsistent(String),
    /// Image and memory size make no machine.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A register of a stranger's state.
    #[error(transparent)]
    CpuState(#[from] CpuStateError),
    /// An input was delivered, but the guest waits for none.
    #[error("the guest does not wait for an input")]
    NotWaiting,
    /// An input no guest can ever receive.
    #[error("an input of {bytes} bytes exceeds the limit of {limit}", limit = quorate_guest_abi::INPUT_BYTES_MAX)]
    InputOversize {
        /// Its length.
        bytes: usize,
    },
    /// The guest has crashed: it is not measured and runs no more.
    #[error("the guest has crashed ({0}) and has no state that may be certified")]
    Terminal(&'static str),
    /// No thread for the watchdog.
    #[error("the watchdog cannot be started: {0}")]
    Watchdog(std::io::Error),
}

impl MachineError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::KvmUnavailable { .. } => "KvmUnavailable",
            Self::Kvm { .. } | Self::Inconsistent(_) => "KvmFailed",
            Self::Layout(error) => error.kind(),
            Self::Memory(error) => error.kind(),
            Self::CpuState(error) => error.kind(),
            Self::InputOversize { .. } => "MessageTooLarge",
            Self::NotWaiting => "NotWaiting",
            Self::Terminal(_) => "GuestTerminal",
            Self::Watchdog(_) => "ResourceExhausted",
        }
    }

    /// For `map_err`: names the refused call.
    pub(crate) fn kvm(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { call, source }
    }
}

impl From<ExtendedError> for MachineError {
    fn from(error: ExtendedError) -> Self {
        match error {
            // A state with AVX-512 on a processor without it: the platform class would have said so.
            ExtendedError::Missing(component) => {
                CpuStateError::RegisterRefused { id: "xsave-component", value: component.into() }.into()
            }
            other => Self::Inconsistent(other.to_string()),
        }
    }
}
