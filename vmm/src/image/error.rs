//! Why a file is no image.

use super::policy::Reason;
use std::fmt;

/// A refusal by [`Image::admit`](super::Image::admit).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A field of a header or table does not say what it must.
    #[error("image field {field} (file offset {offset:#x}) is {value:#x}: {rule}")]
    Field {
        /// Name of the field as in the ELF specification.
        field: &'static str,
        /// Where the field lies in the file.
        offset: u64,
        /// What it says.
        value: u64,
        /// What it must say.
        rule: &'static str,
    },
    /// The executable segment contains what must not run.
    #[error(transparent)]
    Instruction(#[from] Box<BadInstruction>),
}

/// An instruction that keeps an image from being admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BadInstruction {
    /// Lower-case mnemonic, `(bad)` for bytes that are no instruction.
    pub mnemonic: String,
    /// Where it lies in the file.
    pub offset: u64,
    /// Its guest address.
    pub address: u64,
    /// The symbol it belongs to and its distance from that symbol.
    pub symbol: Option<(String, u64)>,
    /// Address of the instruction of the linear sweep that contains its first byte, if it is not itself one of these.
    pub inside: Option<u64>,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for BadInstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "image field text: `{}` at {:#x} (file offset {:#x}",
            self.mnemonic, self.address, self.offset
        )?;
        if let Some((name, distance)) = &self.symbol {
            write!(f, ", {name}+{distance:#x}")?;
        }
        if let Some(inside) = self.inside {
            write!(f, ", hidden in the instruction at {inside:#x}")?;
        }
        write!(f, "): {}", self.reason)
    }
}

impl ImageError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "ImageInvalid"
    }

    /// The field that was refused: an ELF field name, or `text` for an instruction.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Field { field, .. } => field,
            Self::Instruction(_) => "text",
        }
    }

    /// The refused instruction, if it was one.
    pub fn instruction(&self) -> Option<&BadInstruction> {
        match self {
            Self::Field { .. } => None,
            Self::Instruction(bad) => Some(bad),
        }
    }
}
