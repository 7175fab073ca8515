//! Why a guest was stopped for good: a report for people, never part of a certified state.
//!
//! Every exit that is not a doorbell ends the machine with one of these. A crashed machine is not measured and not
//! checkpointed; its last certified state stands.

use std::fmt;

use crate::cpu::GENERAL_NAMES;

/// Names of the processor's exceptions; vectors from 32 on have none.
const VECTOR_NAMES: [&str; 32] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound range",
    "#UD invalid opcode",
    "#NM device not available",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "reserved",
    "#MF x87 error",
    "#AC alignment check",
    "#MC machine check",
    "#XM SIMD error",
    "#VE virtualisation",
    "#CP control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "#HV hypervisor injection",
    "#VC VMM communication",
    "#SX security",
    "reserved",
];

/// What ended the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The processor raised an exception.
    Exception {
        /// Vector, 0 to 255.
        vector: u8,
        /// Error code, for the vectors that have one.
        error_code: Option<u64>,
    },
    /// An access outside memory that is not one 8-byte store to the doorbell.
    DoorbellMisuse {
        /// Guest-physical address.
        address: u64,
        /// Bytes accessed.
        bytes: usize,
        /// Store, or load.
        write: bool,
    },
    /// An access to an I/O port.
    PortAccess {
        /// Port.
        port: u16,
        /// Store, or load.
        write: bool,
    },
    /// The processor could not deliver an exception.
    TripleFault,
    /// KVM could not emulate an instruction.
    Emulation,
    /// An exit that the machine does not have.
    UnknownExit(String),
    /// No doorbell within the budget of processor time. The only kind that depends on time, which is why it ends the VM.
    Watchdog {
        /// The budget.
        budget: std::time::Duration,
    },
}

impl CrashKind {
    /// Stable identifier.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exception { .. } => "Exception",
            Self::DoorbellMisuse { .. } => "DoorbellMisuse",
            Self::PortAccess { .. } => "PortAccess",
            Self::TripleFault => "TripleFault",
            Self::Emulation => "Emulation",
            Self::UnknownExit(_) => "UnknownExit",
            Self::Watchdog { .. } => "Watchdog",
        }
    }
}

impl fmt::Display for CrashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = |write: &bool| if *write { "store to" } else { "load from" };
        match self {
            Self::Exception { vector, error_code } => {
                let name = VECTOR_NAMES.get(usize::from(*vector)).unwrap_or(&"interrupt");
                write!(f, "exception {vector} ({name})")?;
                error_code.map_or(Ok(()), |code| write!(f, ", error code {code:#x}"))
            }
            Self::DoorbellMisuse { address, bytes, write } => {
                write!(
                    f,
                    "{bytes}-byte {} {address:#x}, which is neither memory nor a ring",
                    direction(write)
                )
            }
            Self::PortAccess { port, write } => write!(f, "{} port {port:#x}", direction(write)),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Emulation => f.write_str("an instruction KVM cannot emulate at an address outside memory"),
            Self::UnknownExit(exit) => write!(f, "exit the machine does not have: {exit}"),
            Self::Watchdog { budget } => write!(f, "no doorbell within {budget:?} of processor time"),
        }
    }
}

/// General registers at a crash; for an exception, as they were at the faulting instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// rax rbx rcx rdx rsi rdi rbp rsp r8-r15.
    pub general: [u64; 16],
    /// Flags.
    pub rflags: u64,
}

/// A guest's last words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashReport {
    /// What happened.
    pub kind: CrashKind,
    /// Instruction at which it happened.
    pub rip: u64,
    /// Symbol that contains `rip`, and the offset in it.
    pub symbol: Option<(String, u64)>,
    /// Linear address of the page fault, if it was one.
    pub cr2: Option<u64>,
    /// Registers.
    pub registers: Registers,
}

impl CrashReport {
    /// Stable identifier of what happened, see [`CrashKind::name`].
    pub fn kind(&self) -> &'static str {
        self.kind.name()
    }

    /// Names the instruction's function, with the symbols of the image.
    pub(crate) fn symbolise(mut self, lookup: &dyn Fn(u64) -> Option<(String, u64)>) -> Self {
        self.symbol = lookup(self.rip);
        self
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest crashed: {} at {:#x}", self.kind, self.rip)?;
        if let Some((symbol, offset)) = &self.symbol {
            write!(f, " ({symbol}+{offset:#x})")?;
        }
        if let Some(address) = self.cr2 {
            write!(f, ", address {address:#x}")?;
        }
        for (index, (name, value)) in GENERAL_NAMES.iter().zip(self.registers.general).enumerate() {
            write!(f, "{}{name}={value:#018x}", if index % 4 == 0 { "\n  " } else { " " })?;
        }
        write!(f, "\n  rflags={:#x}", self.registers.rflags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_everything_a_person_needs() {
        let kind = CrashKind::Exception { vector: 14, error_code: Some(7) };
        let registers = Registers { general: std::array::from_fn(|i| i as u64), rflags: 0x246 };
        let report = CrashReport { kind, rip: 0x20_0010, symbol: None, cr2: Some(0x20_0000), registers }
            .symbolise(&|rip| (rip == 0x20_0010).then(|| ("poke".into(), 0x10)));
        let text = report.to_string();
        for part in
            ["#PF page fault", "error code 0x7", "poke+0x10", "address 0x200000", "r15=0x000000000000000f"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn every_vector_has_a_text() {
        for vector in 0..=255 {
            let text = CrashKind::Exception { vector, error_code: None }.to_string();
            assert!(text.contains(&vector.to_string()), "{text}");
        }
    }
}
