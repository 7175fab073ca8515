//! Extended (XSAVE) state in one layout for every processor.
//!
//! The standard layout of XSAVE is not standard: where AVX-512 and PKRU state lie is a property of the processor.
//! The canonical form uses the offsets below and the initial value of a component that the processor did not save,
//! because "not saved" and "saved, equal to the initial value" are the same state.
//!
//! | offset | bytes | component |
//! | --- | --- | --- |
//! | 0 | 24 | x87 control, status, abridged tag, opcode, instruction and data pointer |
//! | 24 | 4 | MXCSR |
//! | 28 | 4 | zero (the mask is a constant of the processor) |
//! | 32 | 128 | ST0-ST7: 10 bytes of 16, then zeros |
//! | 160 | 256 | XMM0-XMM15 |
//! | 416 | 160 | zero (software bytes and header) |
//! | 576 | 256 | upper halves of YMM0-YMM15 |
//! | 832 | 256 | zero |
//! | 1088 | 64 | opmask registers k0-k7 |
//! | 1152 | 512 | upper halves of ZMM0-ZMM15 |
//! | 1664 | 1024 | ZMM16-ZMM31 |
//! | 2688 | 8 | PKRU |

use std::ops::Range;

use super::CpuStateError;

/// Length of the canonical extended state.
pub const EXTENDED_BYTES: usize = 2696;
/// Length of the area KVM exchanges.
pub(crate) const KVM_AREA_BYTES: usize = 4096;

const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const STATE_BV: Range<usize> = 512..520;
const COMPACTION: Range<usize> = 520..528;
const MXCSR: Range<usize> = 24..28;
const MXCSR_INITIAL: u32 = 0x1f80;
const MXCSR_ALLOWED: u32 = 0xffff;
const FCW_INITIAL: u16 = 0x37f;

/// Number of a component behind the legacy area and its place in the canonical layout.
const COMPONENTS: [(u32, Range<usize>); 5] =
    [(2, 576..832), (5, 1088..1152), (6, 1152..1664), (7, 1664..2688), (9, 2688..2696)];

/// Canonical places that are always zero, besides the last six bytes of each x87 register.
const RESERVED: [Range<usize>; 4] = [5..6, 28..32, 416..576, 832..1088];

/// x87, SSE, AVX, AVX-512 and PKRU state, canonical.
#[derive(Clone, PartialEq, Eq)]
pub struct ExtendedState(Box<[u8; EXTENDED_BYTES]>);

impl std::fmt::Debug for ExtendedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExtendedState({})", blake3::hash(&self.0[..]).to_hex())
    }
}

impl ExtendedState {
    /// As after `fninit`, with MXCSR `0x1f80` and every register and PKRU zero.
    pub fn initial() -> Self {
        let mut bytes = Box::new([0; EXTENDED_BYTES]);
        bytes[0..2].copy_from_slice(&FCW_INITIAL.to_le_bytes());
        bytes[MXCSR].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
        Self(bytes)
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8; EXTENDED_BYTES] {
        &self.0
    }

    /// Takes canonical bytes; [`ExtendedState::check`] says whether they are a state.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CpuStateError> {
        let bytes: [u8; EXTENDED_BYTES] =
            bytes.try_into().map_err(|_| CpuStateError::Length { got: bytes.len() })?;
        Ok(Self(Box::new(bytes)))
    }

    /// Refuses reserved bytes and bits, which a restore would lose or fault on.
    pub(super) fn check(&self) -> Result<(), CpuStateError> {
        let x87_tails = (0..8).map(|register| 32 + register * 16 + 10..32 + register * 16 + 16);
        for range in RESERVED.into_iter().chain(x87_tails) {
            if let Some(&value) = self.0[range].iter().find(|&&byte| byte != 0) {
                return Err(CpuStateError::RegisterRefused { id: "xsave-reserved", value: value.into() });
            }
        }
        let mxcsr = self.mxcsr();
        if mxcsr & !MXCSR_ALLOWED != 0 {
            return Err(CpuStateError::RegisterRefused { id: "mxcsr", value: mxcsr.into() });
        }
        Ok(())
    }

    fn mxcsr(&self) -> u32 {
        let [.., b0, b1, b2, b3] = *self.0.first_chunk::<28>().unwrap_or(&[0; 28]);
        u32::from_le_bytes([b0, b1, b2, b3])
    }
}

/// Where this processor keeps the components in the area that KVM exchanges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedLayout {
    /// Place of each of [`COMPONENTS`], if the processor has it.
    places: [Option<Range<usize>>; COMPONENTS.len()],
}

/// What KVM handed out is not a state of this machine version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExtendedError {
    #[error("XSAVE component bitmap {0:#x} has components the machine does not know")]
    UnknownComponents(u64),
    #[error("XSAVE area is compacted")]
    Compacted,
    #[error("component {0} is not initial and this processor does not have it")]
    Missing(u32),
}

impl ExtendedLayout {
    /// Asks the processor (CPUID leaf 0xd). A component of unexpected size counts as absent.
    pub(crate) fn detect() -> Self {
        let places = COMPONENTS.map(|(number, canonical)| {
            let leaf = std::arch::x86_64::__cpuid_count(0xd, number);
            let (size, offset) = (leaf.eax as usize, leaf.ebx as usize);
            let fits = size == canonical.len() && offset >= 576 && offset + size <= KVM_AREA_BYTES;
            fits.then_some(offset..offset + size)
        });
        Self { places }
    }

    /// Brings what KVM_GET_XSAVE gave into canonical form.
    pub(crate) fn canonical(&self, area: &[u8; KVM_AREA_BYTES]) -> Result<ExtendedState, ExtendedError> {
        let present = word(area, STATE_BV);
        let known = COMPONENTS.iter().fold(X87 | SSE, |known, (number, _)| known | 1 << number);
        if present & !known != 0 {
            return Err(ExtendedError::UnknownComponents(present));
        }
        if word(area, COMPACTION) != 0 {
            return Err(ExtendedError::Compacted);
        }
        let mut state = ExtendedState::initial();
        let out = &mut state.0;
        if present & X87 != 0 {
            out[0..24].copy_from_slice(&area[0..24]);
            for register in (32..160).step_by(16) {
                out[register..register + 10].copy_from_slice(&area[register..register + 10]);
            }
        }
        if present & (SSE | AVX) != 0 {
            out[MXCSR].copy_from_slice(&area[MXCSR]);
        }
        if present & SSE != 0 {
            out[160..416].copy_from_slice(&area[160..416]);
        }
        for ((number, canonical), place) in COMPONENTS.into_iter().zip(&self.places) {
            if present & 1 << number != 0 {
                let place = place.clone().ok_or(ExtendedError::Missing(number))?;
                out[canonical].copy_from_slice(&area[place]);
            }
        }
        Ok(state)
    }

    /// The area for KVM_SET_XSAVE. Components that are initial are declared so.
    pub(crate) fn area(&self, state: &ExtendedState) -> Result<Box<[u8; KVM_AREA_BYTES]>, ExtendedError> {
        let mut area = Box::new([0; KVM_AREA_BYTES]);
        area[..416].copy_from_slice(&state.0[..416]);
        let mut present = X87 | SSE;
        for ((number, canonical), place) in COMPONENTS.into_iter().zip(&self.places) {
            let bytes = &state.0[canonical];
            if bytes.iter().any(|&byte| byte != 0) {
                let place = place.clone().ok_or(ExtendedError::Missing(number))?;
                area[place].copy_from_slice(bytes);
                present |= 1 << number;
            }
        }
        area[STATE_BV].copy_from_slice(&present.to_le_bytes());
        Ok(area)
    }
}

fn word(area: &[u8; KVM_AREA_BYTES], range: Range<usize>) -> u64 {
    area[range].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
