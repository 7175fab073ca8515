//! Which instructions an image may contain.
//!
//! An instruction is allowed if every processor feature it needs is on [`ALLOWED`] and no rule below names it. The list
//! is x86-64 with SSE to AVX2 and the integer extensions compilers use: what XCR0 = 7 enables and what leaves all of its
//! state in the CPU digest. Everything newer is refused until somebody has thought about it.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind};
use std::fmt;

/// What an instruction would do to a machine that must behave the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its result comes from outside the machine: randomness, a clock, a counter, the processor's identity.
    ReadsOutside,
    /// It touches state that is not part of the CPU digest or that the machine fixes.
    UndigestedState,
    /// It behaves differently under different kinds of KVM or processor vendors, or shows host selectors and tables.
    PlatformDependent,
    /// It asks a kernel or a hypervisor for something.
    EntersSupervisor,
    /// It is privileged and could only crash the guest.
    Privileged,
    /// It needs a processor feature the machine does not have.
    FeatureNotAllowed,
    /// Intel and AMD decode these bytes differently.
    VendorsDisagree,
    /// The bytes are no instruction.
    Invalid,
    /// A direct branch leads outside the text or into the middle of an instruction.
    BranchTarget,
    /// The instruction runs across the start of a function.
    CrossesFunction,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadsOutside => "its result comes from outside the machine",
            Self::UndigestedState => "it touches state outside the CPU digest",
            Self::PlatformDependent => "it behaves differently from platform to platform",
            Self::EntersSupervisor => "it calls a kernel or hypervisor",
            Self::Privileged => "it is privileged",
            Self::FeatureNotAllowed => "the machine does not have this processor feature",
            Self::VendorsDisagree => "processor vendors decode these bytes differently",
            Self::Invalid => "these bytes are no instruction",
            Self::BranchTarget => "its target is outside the text or inside an instruction",
            Self::CrossesFunction => "it runs across the start of a function",
        })
    }
}

/// Processor features a guest may use.
const ALLOWED: [CpuidFeature; 38] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::PREFETCHW,
    CpuidFeature::CET_IBT,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::POPCNT,
    CpuidFeature::LZCNT,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::ADX,
    CpuidFeature::MOVBE,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::SHA,
    CpuidFeature::F16C,
    CpuidFeature::FMA,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::VAES,
    CpuidFeature::VPCLMULQDQ,
];

/// Why an instruction met by the linear sweep is refused.
pub(super) fn refusal(instruction: &Instruction) -> Option<Reason> {
    if instruction.is_invalid() {
        return Some(Reason::Invalid);
    }
    if let Some(reason) = by_mnemonic(instruction.mnemonic()) {
        return Some(reason);
    }
    if is_far_transfer(instruction.code()) || names_segment_register(instruction) {
        return Some(Reason::PlatformDependent);
    }
    let features = instruction.cpuid_features();
    if let Some(reason) =
        features.iter().find_map(|feature| untrapped(*feature).or_else(|| trapped(*feature)))
    {
        return Some(reason);
    }
    if instruction.is_privileged() {
        return Some(Reason::Privileged);
    }
    let allowed = features.iter().all(|feature| ALLOWED.contains(feature));
    (!allowed).then_some(Reason::FeatureNotAllowed)
}

/// Why an instruction is refused even at an offset that the linear sweep never reaches: it would run there without
/// any trap, and its encoding is long enough that ordinary code hardly ever contains it by chance.
pub(super) fn hidden_refusal(instruction: &Instruction) -> Option<Reason> {
    if instruction.is_invalid() || instruction.is_privileged() {
        return None;
    }
    instruction.cpuid_features().iter().find_map(|feature| untrapped(*feature))
}

/// Features whose instructions no setting of the machine stops at CPL 3.
fn untrapped(feature: CpuidFeature) -> Option<Reason> {
    use CpuidFeature as F;
    match feature {
        F::RDRAND | F::RDSEED | F::RDPID | F::RDPRU | F::RDTSCP | F::LWP | F::PADLOCK_RNG => {
            Some(Reason::ReadsOutside)
        }
        F::MONITOR | F::MONITORX | F::WAITPKG => Some(Reason::ReadsOutside),
        F::XSAVE
        | F::XSAVEC
        | F::XSAVEOPT
        | F::XSAVES
        | F::FSGSBASE
        | F::PKU
        | F::CET_SS
        | F::UINTR
        | F::KL => Some(Reason::UndigestedState),
        F::AMX_TILE | F::AMX_BF16 | F::AMX_INT8 | F::AMX_FP16 | F::AMX_COMPLEX => {
            Some(Reason::UndigestedState)
        }
        F::SEP | F::VMX | F::SVM | F::SGX1 | F::TDX | F::ENQCMD => Some(Reason::EntersSupervisor),
        _ => None,
    }
}

/// Features that the machine traps, or (transactions) whose encodings are common bytes: refused in the sweep only.
fn trapped(feature: CpuidFeature) -> Option<Reason> {
    use CpuidFeature as F;
    match feature {
        F::TSC | F::CPUID | F::RDPMC | F::RTM | F::HLE_or_RTM | F::TSXLDTRK => Some(Reason::ReadsOutside),
        F::SYSCALL | F::SMX | F::SKINIT_or_SVM => Some(Reason::EntersSupervisor),
        _ => None,
    }
}

/// Rules for instructions as old as the processor itself.
fn by_mnemonic(mnemonic: Mnemonic) -> Option<Reason> {
    use Mnemonic as M;
    match mnemonic {
        // IF and the host's selectors show through; TF raises what no platform delivers alike.
        M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq => Some(Reason::PlatformDependent),
        M::Iret | M::Iretd | M::Iretq | M::Lss | M::Lfs | M::Lgs | M::Les | M::Lds | M::Lar | M::Lsl => {
            Some(Reason::PlatformDependent)
        }
        M::Verr | M::Verw | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => Some(Reason::PlatformDependent),
        // Gates of the host, not of the machine, under kvm_pvm; `int3` is what linkers pad with and only crashes.
        M::Int | M::Int1 | M::Into => Some(Reason::EntersSupervisor),
        // They store instruction pointers, selectors and masks that depend on the processor model.
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => Some(Reason::UndigestedState),
        M::Fnstenv | M::Fstenv | M::Fldenv | M::Fnsave | M::Fsave | M::Frstor => {
            Some(Reason::UndigestedState)
        }
        // Approximations whose bits differ between vendors.
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss => {
            Some(Reason::PlatformDependent)
        }
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 => {
            Some(Reason::PlatformDependent)
        }
        M::Hlt
        | M::In
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Out
        | M::Outsb
        | M::Outsw
        | M::Outsd
        | M::Cli
        | M::Sti => Some(Reason::Privileged),
        // Their lengths differ between vendors; `ud2` is the one that compilers emit.
        M::Ud0 | M::Ud1 => Some(Reason::VendorsDisagree),
        _ => None,
    }
}

fn is_far_transfer(code: Code) -> bool {
    code.is_jmp_far() || code.is_jmp_far_indirect() || code.is_call_far() || code.is_call_far_indirect() || {
        matches!(code.mnemonic(), Mnemonic::Retf)
    }
}

/// `mov`, `push` and `pop` of a selector. A segment prefix on a memory operand is harmless: all bases are zero.
fn names_segment_register(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_segment_register()
    })
}
