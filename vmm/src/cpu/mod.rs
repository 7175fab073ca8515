//! The canonical CPU state: every register that can influence the guest, in one fixed encoding.
//!
//! # Encoding `cpu-v1`, 3115 bytes, all integers little-endian
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `cpu-v1\0\0` |
//! | 8 | 128 | rax rbx rcx rdx rsi rdi rbp rsp r8-r15 |
//! | 136 | 8 | rip |
//! | 144 | 8 | rflags, RF cleared, bits 1 and 9 set |
//! | 152 | 48 | cr0 cr2 cr3 cr4 cr8 efer |
//! | 200 | 32 | gdt base, gdt limit, idt base, idt limit, 8 bytes each |
//! | 232 | 40 | dr0 dr1 dr2 dr3 dr7 |
//! | 272 | 147 | cs ss ds es fs gs tr: base 8, limit 4, selector 2, type, present, dpl, db, s, l, g 1 each |
//! | 419 | 2696 | [extended state](crate::cpu::ExtendedState) |
//!
//! The CPU digest is BLAKE3 of these bytes. Not in it, because the machine version fixes them: XCR0, all MSRs, the
//! APIC base. Not in it, because the guest cannot read them: TSC, DR6. Pending events are required to be none.
//!
//! A state from outside is accepted only if the fields a guest cannot change have the values of the machine version
//! ([`CpuState::check`]), so no stranger can choose control registers or descriptor tables.

mod extended;

pub use extended::{EXTENDED_BYTES, ExtendedState};
pub(crate) use extended::{ExtendedError, ExtendedLayout, KVM_AREA_BYTES};

use quorate_attest::id::CpuDigest;
use quorate_guest_abi as abi;

use crate::machine::layout;

const TAG: &[u8; 8] = b"cpu-v1\0\0";
const WORDS: usize = 33;
const SEGMENTS: usize = 7;
const SEGMENT_BYTES: usize = 21;

/// CR0: PE, MP, ET, NE, WP, AM, PG.
pub const CR0: u64 = 0x8005_0033;
/// CR4: TSD, PAE, OSFXSR, OSXMMEXCPT, UMIP, OSXSAVE.
pub const CR4: u64 = 0x4_0e24;
/// EFER: LME, LMA, NXE; SCE off.
pub const EFER: u64 = 0xd00;
/// DR7 with every breakpoint off.
pub const DR7: u64 = 0x400;
/// RFLAGS at entry: IF and the bit that is always one.
pub const RFLAGS: u64 = 0x202;

/// What CPL 3 can set in RFLAGS: CF PF AF ZF SF TF DF OF NT AC ID.
const RFLAGS_GUEST: u64 = 0x24_4cd5;
const RFLAGS_RF: u64 = 1 << 16;
/// First address CPL 3 cannot execute at without a fault, mapped or not: processors refuse to be entered there.
const USER_END: u64 = 1 << 47;

/// Index of RSP in [`CpuState::general`].
pub const RSP: usize = 7;

/// Names of [`CpuState::general`], in its order.
pub const GENERAL_NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// A register or table that a stranger's state may not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuStateError {
    /// The encoding has another length.
    #[error("a CPU state has {want} bytes, got {got}", want = CpuState::BYTES)]
    Length {
        /// Bytes given.
        got: usize,
    },
    /// The encoding does not begin with the tag of this version.
    #[error("not a CPU state of version cpu-v1")]
    Tag,
    /// A register has a value the machine version does not allow.
    #[error("register {id} may not be {value:#x}")]
    RegisterRefused {
        /// Register.
        id: &'static str,
        /// Refused value.
        value: u64,
    },
}

impl CpuStateError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Length { .. } | Self::Tag => "SnapshotInvalid",
            Self::RegisterRefused { .. } => "RegisterRefused",
        }
    }
}

/// Base and limit of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// Size less one.
    pub limit: u16,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegmentRegister {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Descriptor type.
    pub kind: u8,
    /// Present; zero for an unusable segment.
    pub present: u8,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Default operand size.
    pub db: u8,
    /// Code or data (not a system segment).
    pub s: u8,
    /// 64-bit code.
    pub l: u8,
    /// Limit counts pages.
    pub g: u8,
}

impl SegmentRegister {
    const CODE: Self = Self {
        base: 0,
        limit: u32::MAX,
        selector: 0x33,
        kind: 11,
        present: 1,
        dpl: 3,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
    };
    const STACK: Self = Self { selector: 0x2b, kind: 3, db: 1, l: 0, ..Self::CODE };
    const NULL: Self =
        Self { base: 0, limit: 0, selector: 0, kind: 0, present: 0, dpl: 0, db: 0, s: 0, l: 0, g: 0 };
    const TASK: Self = Self {
        base: layout::TSS,
        limit: layout::TSS_LIMIT,
        selector: 0x18,
        kind: 11,
        present: 1,
        dpl: 0,
        db: 0,
        s: 0,
        l: 0,
        g: 0,
    };

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.limit.to_le_bytes());
        out.extend_from_slice(&self.selector.to_le_bytes());
        out.extend_from_slice(&[self.kind, self.present, self.dpl, self.db, self.s, self.l, self.g]);
    }

    fn decode(bytes: &[u8; SEGMENT_BYTES]) -> Self {
        let [b0, b1, b2, b3, b4, b5, b6, b7, l0, l1, l2, l3, s0, s1, kind, present, dpl, db, s, l, g] =
            *bytes;
        Self {
            base: u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
            limit: u32::from_le_bytes([l0, l1, l2, l3]),
            selector: u16::from_le_bytes([s0, s1]),
            kind,
            present,
            dpl,
            db,
            s,
            l,
            g,
        }
    }
}

/// Everything of the processor that a checkpoint contains. See the module for the encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// rax rbx rcx rdx rsi rdi rbp rsp r8-r15.
    pub general: [u64; 16],
    /// Next instruction.
    pub rip: u64,
    /// Flags, canonical.
    pub rflags: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Address of the last page fault: zero until a guest crashes.
    pub cr2: u64,
    /// Page table root.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Task priority.
    pub cr8: u64,
    /// Extended feature enable register.
    pub efer: u64,
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table.
    pub idt: Table,
    /// dr0 dr1 dr2 dr3 dr7.
    pub debug: [u64; 5],
    /// cs ss ds es fs gs tr.
    pub segments: [SegmentRegister; SEGMENTS],
    /// x87, SSE, AVX, AVX-512 and PKRU state.
    pub extended: ExtendedState,
}

impl CpuState {
    /// Length of the encoding.
    pub const BYTES: usize = TAG.len() + WORDS * 8 + SEGMENTS * SEGMENT_BYTES + EXTENDED_BYTES;

    /// The state before the first instruction of an image whose entry point is `entry`.
    pub fn initial(entry: u64) -> Self {
        let mut general = [0; 16];
        general[RSP] = abi::STACK_TOP;
        let null = SegmentRegister::NULL;
        Self {
            general,
            rip: entry,
            rflags: RFLAGS,
            cr0: CR0,
            cr2: 0,
            cr3: layout::PML4,
            cr4: CR4,
            cr8: 0,
            efer: EFER,
            gdt: Table { base: layout::GDT, limit: layout::GDT_LIMIT },
            idt: Table { base: layout::IDT, limit: layout::IDT_LIMIT },
            debug: [0, 0, 0, 0, DR7],
            segments: [
                SegmentRegister::CODE,
                SegmentRegister::STACK,
                null,
                null,
                null,
                null,
                SegmentRegister::TASK,
            ],
            extended: ExtendedState::initial(),
        }
    }

    /// RFLAGS as it is digested: RF is a leftover of the last exit, bits 1 and 9 are one at CPL 3 by construction.
    pub(crate) fn canonical_rflags(rflags: u64) -> u64 {
        (rflags & !RFLAGS_RF) | RFLAGS
    }

    /// The canonical bytes, [`CpuState::BYTES`] of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend_from_slice(TAG);
        for word in self.words() {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for segment in &self.segments {
            segment.encode(&mut out);
        }
        out.extend_from_slice(self.extended.as_bytes());
        out
    }

    fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..16].copy_from_slice(&self.general);
        let tables = [self.gdt.base, self.gdt.limit.into(), self.idt.base, self.idt.limit.into()];
        let control = [self.rip, self.rflags, self.cr0, self.cr2, self.cr3, self.cr4, self.cr8, self.efer];
        words[16..24].copy_from_slice(&control);
        words[24..28].copy_from_slice(&tables);
        words[28..].copy_from_slice(&self.debug);
        words
    }

    /// Decodes what [`CpuState::encode`] wrote and refuses everything [`CpuState::check`] refuses.
    pub fn decode(bytes: &[u8]) -> Result<Self, CpuStateError> {
        let bytes: &[u8; Self::BYTES] =
            bytes.try_into().map_err(|_| CpuStateError::Length { got: bytes.len() })?;
        let (tag, rest) = bytes.split_at(TAG.len());
        if tag != TAG {
            return Err(CpuStateError::Tag);
        }
        let (words, rest) = rest.split_at(WORDS * 8);
        let (segments, extended) = rest.split_at(SEGMENTS * SEGMENT_BYTES);
        let (words, _) = words.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let (segments, _) = segments.as_chunks::<SEGMENT_BYTES>();
        let state = Self {
            general: std::array::from_fn(word),
            rip: word(16),
            rflags: word(17),
            cr0: word(18),
            cr2: word(19),
            cr3: word(20),
            cr4: word(21),
            cr8: word(22),
            efer: word(23),
            gdt: Table { base: word(24), limit: limit("gdt", word(25))? },
            idt: Table { base: word(26), limit: limit("idt", word(27))? },
            debug: std::array::from_fn(|index| word(28 + index)),
            segments: std::array::from_fn(|index| SegmentRegister::decode(&segments[index])),
            extended: ExtendedState::decode(extended)?,
        };
        state.check()?;
        Ok(state)
    }

    /// Refuses every value that no execution of a guest can reach: system registers, segments and debug registers
    /// must be those of the machine version; RIP is an address of CPL 3; RFLAGS may differ only in what CPL 3 can set.
    pub fn check(&self) -> Result<(), CpuStateError> {
        let initial = Self::initial(self.rip);
        const SYSTEM: [(&str, usize); 15] = [
            ("cr0", 18),
            ("cr2", 19),
            ("cr3", 20),
            ("cr4", 21),
            ("cr8", 22),
            ("efer", 23),
            ("gdt", 24),
            ("gdt", 25),
            ("idt", 26),
            ("idt", 27),
            ("dr0", 28),
            ("dr1", 29),
            ("dr2", 30),
            ("dr3", 31),
            ("dr7", 32),
        ];
        let (words, allowed) = (self.words(), initial.words());
        for (id, index) in SYSTEM {
            if words[index] != allowed[index] {
                return Err(CpuStateError::RegisterRefused { id, value: words[index] });
            }
        }
        if self.rip >= USER_END {
            return Err(CpuStateError::RegisterRefused { id: "rip", value: self.rip });
        }
        if self.rflags & !RFLAGS_GUEST != RFLAGS {
            return Err(CpuStateError::RegisterRefused { id: "rflags", value: self.rflags });
        }
        const NAMES: [&str; SEGMENTS] = ["cs", "ss", "ds", "es", "fs", "gs", "tr"];
        for (index, id) in NAMES.into_iter().enumerate() {
            if self.segments[index] != initial.segments[index] {
                return Err(CpuStateError::RegisterRefused {
                    id,
                    value: self.segments[index].selector.into(),
                });
            }
        }
        self.extended.check()
    }

    /// BLAKE3 of [`CpuState::encode`].
    pub fn digest(&self) -> CpuDigest {
        CpuDigest::from_bytes(*blake3::hash(&self.encode()).as_bytes())
    }
}

fn limit(id: &'static str, value: u64) -> Result<u16, CpuStateError> {
    u16::try_from(value).map_err(|_| CpuStateError::RegisterRefused { id, value })
}

#[cfg(test)]
mod tests;
