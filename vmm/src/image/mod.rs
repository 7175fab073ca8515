//! Admission: which ELF files may become a machine.
//!
//! [`Image::admit`] is the only way to an [`Image`]. It reads the file strictly (every offset and length is checked
//! against the file and the address space, every field that could mean something else must say what is expected) and
//! decodes everything executable, because at CPL 3 some instructions would break determinism without any trap.
//!
//! # What a file must be
//!
//! * at most 16 MiB, ELF64, little-endian, static `ET_EXEC` for x86-64;
//! * program headers: only `PT_LOAD`, and `PT_GNU_STACK` without X. Each `PT_LOAD` starts on a 2 MiB boundary from
//!   0x200000 upwards, in ascending order, without overlap after rounding to 2 MiB (the size of the pages it is mapped
//!   with), r-x, r-- or rw-, with exactly one executable segment, in which the entry point lies on an instruction;
//! * `p_paddr` and all sections but `.symtab` and its strings mean nothing and are not read;
//! * at most 65,536 symbols; a function symbol in the text must start where an instruction does.
//!
//! # What its text must be
//!
//! 1. A **linear sweep** from the start of the text, begun anew at every function symbol, must meet only allowed
//!    instructions ([`Reason`] lists why one is not), decoded alike by Intel and AMD processors. The text does not
//!    change afterwards: its pages are never writable, and pages that are writable are never executable. Zeros before
//!    a function or the end of the text are padding.
//! 2. Every **direct branch** must lead to an instruction of the sweep.
//! 3. At **every other byte offset**, where only a computed jump could land, there must be no instruction that runs
//!    untrapped and reads the outside, touches state the CPU digest does not cover or leaves the machine: RDRAND,
//!    RDSEED, RDPID, RDPRU, RDTSCP, XGETBV and the XSAVE family, FSGSBASE, PKRU, UMWAIT and MONITORX families, shadow
//!    stacks, user interrupts, AMX, key locker, SYSENTER, VMCALL and relatives.
//!
//! Rule 3 can refuse harmless code whose bytes contain such an encoding by chance: measured on distribution binaries,
//! once in 0.3 to 1.3 MB of text (all of rule 1's list at every offset: once in 20 to 40 KB, which no image would
//! survive). Moving a function or changing an option moves the bytes; the error names the instruction they hide in.
//!
//! # Limits
//!
//! Only the sweep refuses what the machine traps anyway and encodings so short that ordinary code is full of them. A
//! guest that computes a jump into the middle of an instruction can execute these. What happens then:
//!
//! | instruction | at run time |
//! | --- | --- |
//! | `in`, `out`, `hlt`, `cli`, `sti`, anything privileged | #GP at CPL 3: the guest has crashed |
//! | `rdtsc` / `cpuid` / `rdpmc` | CR4.TSD and PR_SET_TSC / CPUID faulting / CR4.PCE = 0: #GP |
//! | `sgdt`, `sidt`, `sldt`, `str`, `smsw` | CR4.UMIP: #GP |
//! | `syscall` | SCE off or LSTAR in unmapped memory: #UD or #PF |
//! | `int n` | gates of DPL 0: #GP, except vectors the host itself serves under kvm_pvm |
//! | `mov` to and from selectors, `pushf`, `popf`, `lar`, `lsl`, `verr`, `verw`, `iret`, `retf` | **not caught**; under kvm_pvm they show host selectors and IF |
//! | `xbegin` | **not caught** where the processor has transactions |
//! | AVX-512, `rcpps` and its like, other new features | **not caught** where the processor has them |
//!
//! A guest that does this on purpose loses only itself: its replay differs from its execution, no quorum attests the
//! slot, nothing it says is certified. Admission keeps honest guests deterministic; the certificate keeps the others
//! out. Instructions whose results Intel and AMD leave undefined (flags after `mul`, `bsf` of zero) are not refused;
//! the platform class in the statement covers them.

mod error;
mod headers;
mod policy;
mod sweep;
mod symbols;

#[cfg(test)]
pub(crate) mod tests;

pub use error::{BadInstruction, ImageError};
pub use headers::Segment;
pub use policy::Reason;

use crate::machine::layout::Extent;
use headers::field;
use quorate_attest::id::ImageDigest;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use sweep::Text;
use symbols::Symbols;

/// Largest file that may be an image.
pub const IMAGE_BYTES_MAX: usize = 16 << 20;

/// An admitted guest image. Clones share the file's bytes.
#[derive(Clone)]
pub struct Image(Arc<Admitted>);

struct Admitted {
    elf: Vec<u8>,
    digest: ImageDigest,
    entry: u64,
    segments: Vec<Segment>,
    symbols: Symbols,
}

impl Image {
    /// Admits an ELF file, or says which field or instruction forbids it.
    pub fn admit(elf: &[u8]) -> Result<Self, ImageError> {
        if elf.len() > IMAGE_BYTES_MAX {
            return Err(field("e_ident", 0, elf.len() as u64, "the file must not exceed 16 MiB"));
        }
        let headers = headers::read(elf)?;
        let symbols = Symbols::read(elf, &headers)?;
        check_text(elf, &headers, &symbols)?;
        Ok(Self(Arc::new(Admitted {
            elf: elf.to_vec(),
            digest: ImageDigest::from_bytes(Sha256::digest(elf).into()),
            entry: headers.file.e_entry,
            segments: headers.segments,
            symbols,
        })))
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> ImageDigest {
        self.0.digest
    }

    /// Address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.0.entry
    }

    /// The file itself.
    pub fn elf(&self) -> &[u8] {
        &self.0.elf
    }

    /// The segments in address order.
    pub fn segments(&self) -> &[Segment] {
        &self.0.segments
    }

    /// Place and rights of each segment, as [`MemoryMap::new`](crate::machine::layout::MemoryMap::new) takes them.
    pub fn extents(&self) -> Vec<Extent> {
        self.0.segments.iter().map(|segment| segment.extent).collect()
    }

    /// The non-zero contents of memory: where the file's bytes of each segment go.
    pub fn contents(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.segments.iter().map(|segment| (segment.extent.start, &self.0.elf[segment.file.clone()]))
    }

    /// Number of named addresses in the text.
    pub fn symbols(&self) -> usize {
        self.0.symbols.count()
    }

    /// The symbol an address of the text belongs to, and the distance from its start. Names are as the linker left them.
    pub fn symbol_of(&self, address: u64) -> Option<(&str, u64)> {
        self.0.symbols.at(address)
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("digest", &self.0.digest)
            .field("entry", &self.0.entry)
            .finish_non_exhaustive()
    }
}

fn check_text(elf: &[u8], headers: &headers::Headers, symbols: &Symbols) -> Result<(), ImageError> {
    let segment = &headers.segments[headers.text];
    let start = segment.extent.start;
    let text = Text::new(&elf[segment.file.clone()], start, segment.file.start as u64);
    let boundaries = text.check(&symbols.function_offsets(start)).map_err(|mut bad| {
        bad.symbol = symbols.at(bad.address).map(|(name, distance)| (name.to_owned(), distance));
        Box::new(bad)
    })?;
    if !boundaries.contains((headers.file.e_entry - start) as usize) {
        return Err(field("e_entry", 24, headers.file.e_entry, "must be the start of an instruction"));
    }
    Ok(())
}
