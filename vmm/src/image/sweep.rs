//! Decoding of everything that could be executed.

use super::error::BadInstruction;
use super::policy::{Reason, hidden_refusal, refusal};
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};

/// Longest instruction, and so how many bytes behind the text an instruction in it may reach.
const INSTRUCTION_BYTES_MAX: usize = 15;

/// The bytes of the executable segment and where they lie.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    /// `bytes` and the zeros that follow them in memory.
    padded: Vec<u8>,
    address: u64,
    file_offset: u64,
}

/// Offsets at which the linear sweep found an instruction.
pub(super) struct Boundaries(Vec<u64>);

impl Boundaries {
    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// Whether an instruction of the sweep starts at this offset of the text.
    pub(super) fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// The last boundary at or before an offset.
    fn before(&self, at: usize) -> Option<usize> {
        (at.saturating_sub(INSTRUCTION_BYTES_MAX)..=at).rev().find(|at| self.contains(*at))
    }
}

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8], address: u64, file_offset: u64) -> Self {
        let mut padded = Vec::with_capacity(bytes.len() + INSTRUCTION_BYTES_MAX);
        padded.extend_from_slice(bytes);
        padded.resize(bytes.len() + INSTRUCTION_BYTES_MAX, 0);
        Self { bytes, padded, address, file_offset }
    }

    /// Decodes the text in a line from its start and anew from each function start (ascending offsets), then checks
    /// every direct branch, then every other offset for instructions that must not be anywhere.
    pub(super) fn check(&self, functions: &[usize]) -> Result<Boundaries, BadInstruction> {
        let mut boundaries = Boundaries(vec![0; self.bytes.len().div_ceil(64)]);
        let mut targets = Vec::new();
        let ends = functions.iter().copied().chain([self.bytes.len()]);
        let mut start = 0;
        for end in ends {
            self.sweep(start, end, &mut boundaries, &mut targets)?;
            start = end;
        }
        for (from, to) in targets {
            let inside =
                usize::try_from(to.wrapping_sub(self.address)).is_ok_and(|at| boundaries.contains(at));
            if !inside {
                return Err(self.bad(from, None, Reason::BranchTarget));
            }
        }
        self.search_hidden(&boundaries)?;
        Ok(boundaries)
    }

    /// Decodes `[start, end)`. Zeros up to the end are padding: they are no part of what can be reached in a line.
    fn sweep(
        &self,
        start: usize,
        end: usize,
        boundaries: &mut Boundaries,
        targets: &mut Vec<(usize, u64)>,
    ) -> Result<(), BadInstruction> {
        let zeros = self.bytes[start..end].iter().rev().take_while(|byte| **byte == 0).count();
        let mut at = start;
        while at < end - zeros {
            let instruction = self.decode(at, DecoderOptions::NONE);
            if let Some(reason) = refusal(&instruction) {
                return Err(self.bad(at, None, reason));
            }
            let other = self.decode(at, DecoderOptions::AMD);
            if other.code() != instruction.code() || other.len() != instruction.len() {
                return Err(self.bad(at, None, Reason::VendorsDisagree));
            }
            if at + instruction.len() > end && end < self.bytes.len() {
                return Err(self.bad(at, None, Reason::CrossesFunction));
            }
            if is_direct_branch(&instruction) {
                targets.push((at, instruction.near_branch_target()));
            }
            boundaries.insert(at);
            at += instruction.len();
        }
        Ok(())
    }

    fn search_hidden(&self, boundaries: &Boundaries) -> Result<(), BadInstruction> {
        let offsets = (0..self.bytes.len()).filter(|at| !boundaries.contains(*at));
        for at in offsets.filter(|at| may_be_long_opcode(&self.padded[*at..])) {
            if let Some(reason) = hidden_refusal(&self.decode(at, DecoderOptions::NONE)) {
                return Err(self.bad(at, boundaries.before(at), reason));
            }
        }
        Ok(())
    }

    fn decode(&self, at: usize, options: u32) -> Instruction {
        let end = self.padded.len().min(at + INSTRUCTION_BYTES_MAX);
        Decoder::with_ip(64, &self.padded[at..end], self.address + at as u64, options).decode()
    }

    fn bad(&self, at: usize, inside: Option<usize>, reason: Reason) -> BadInstruction {
        let instruction = self.decode(at, DecoderOptions::NONE);
        let mnemonic = match instruction.is_invalid() {
            true => "(bad)".to_owned(),
            false => format!("{:?}", instruction.mnemonic()).to_lowercase(),
        };
        BadInstruction {
            mnemonic,
            offset: self.file_offset + at as u64,
            address: self.address + at as u64,
            symbol: None,
            inside: inside.map(|at| self.address + at as u64),
            reason,
        }
    }
}

/// Whether bytes can start an instruction outside the one-byte opcode map, where all that is searched for lies: after
/// any legacy and REX prefixes comes an escape or a VEX, XOP or EVEX prefix. Spares nine of ten decodings.
fn may_be_long_opcode(bytes: &[u8]) -> bool {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let opcode = bytes.iter().take(INSTRUCTION_BYTES_MAX).find(|byte| !is_prefix(byte));
    matches!(opcode, Some(0x0f | 0x62 | 0x8f | 0xc4 | 0xc5))
}

fn is_direct_branch(instruction: &Instruction) -> bool {
    instruction.op_count() > 0
        && matches!(
            instruction.op_kind(0),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn the_search_passes_over_nothing_it_should_find(
            prefixes in prop::collection::vec(prop::sample::select(vec![0x66, 0xf2, 0xf3, 0x48, 0x41, 0x2e, 0x67]), 0..4),
            bytes in prop::collection::vec(any::<u8>(), 1..12),
        ) {
            let bytes = [prefixes, bytes].concat();
            let text = Text::new(&bytes, 0x20_0000, 0);
            if hidden_refusal(&text.decode(0, DecoderOptions::NONE)).is_some() {
                prop_assert!(may_be_long_opcode(&text.padded));
            }
        }
    }
}
