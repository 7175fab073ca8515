//! ELF file header, program headers and what they may say.

use super::error::ImageError;
use crate::machine::layout::{Access, Extent};
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{ELF64_EHDR_TAILSIZE, FileHeader, parse_ident};
use elf::parse::ParseError;
use elf::segment::{ProgramHeader, SegmentTable};
use quorate_guest_abi::{IMAGE_BASE, LARGE_PAGE_BYTES, MEMORY_BYTES_MAX};
use std::ops::Range;

const HEADER_BYTES: usize = abi::EI_NIDENT + ELF64_EHDR_TAILSIZE;
const PROGRAM_HEADER_BYTES: u16 = 56;
const PROGRAM_HEADERS_MAX: u16 = 16;

/// Offsets within a program header.
mod at {
    pub const P_TYPE: u64 = 0;
    pub const P_FLAGS: u64 = 4;
    pub const P_OFFSET: u64 = 8;
    pub const P_VADDR: u64 = 16;
    pub const P_FILESZ: u64 = 32;
    pub const P_MEMSZ: u64 = 40;
    pub const P_ALIGN: u64 = 48;
}

/// A segment: where it lies in memory and which bytes of the file it starts with (the rest is zero).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Place and rights in memory.
    pub extent: Extent,
    /// Bytes of the file.
    pub file: Range<usize>,
}

/// What the headers say, checked.
pub(super) struct Headers {
    pub(super) file: FileHeader<LittleEndian>,
    pub(super) segments: Vec<Segment>,
    /// Index of the only executable segment.
    pub(super) text: usize,
}

pub(super) fn field(field: &'static str, offset: u64, value: u64, rule: &'static str) -> ImageError {
    ImageError::Field { field, offset, value, rule }
}

/// Reads and checks the file header and all program headers.
pub(super) fn read(elf: &[u8]) -> Result<Headers, ImageError> {
    let file = read_file_header(elf)?;
    let segments = read_segments(elf, &file)?;
    let mut executable = segments.iter().enumerate().filter(|(_, s)| s.extent.access == Access::ReadExecute);
    let (Some((text, segment)), None) = (executable.next(), executable.next()) else {
        return Err(field(
            "p_flags",
            file.e_phoff,
            segments.len() as u64,
            "exactly one segment must be executable",
        ));
    };
    let start = segment.extent.start;
    if !(start..start + segment.file.len() as u64).contains(&file.e_entry) {
        return Err(field("e_entry", 24, file.e_entry, "must lie in the text"));
    }
    Ok(Headers { file, segments, text })
}

fn read_file_header(elf: &[u8]) -> Result<FileHeader<LittleEndian>, ImageError> {
    let Some(header) = elf.get(..HEADER_BYTES) else {
        return Err(field("e_ident", 0, elf.len() as u64, "the file is shorter than an ELF header"));
    };
    let ident = parse_ident::<LittleEndian>(header).map_err(bad_ident)?;
    let file = FileHeader::parse_tail(ident, &header[abi::EI_NIDENT..])
        .map_err(|_| field("e_ident", 0, elf.len() as u64, "the file is shorter than an ELF header"))?;
    let rules = [
        ("e_ident", 4, u64::from(header[abi::EI_CLASS]), u64::from(abi::ELFCLASS64), "must be 64-bit"),
        ("e_ident", 8, u64::from(file.abiversion), 0, "the ABI version must be 0"),
        ("e_ident", 9, header[9..16].iter().map(|byte| u64::from(*byte)).sum(), 0, "padding must be zero"),
        ("e_type", 16, u64::from(file.e_type), u64::from(abi::ET_EXEC), "must be a static executable"),
        ("e_machine", 18, u64::from(file.e_machine), u64::from(abi::EM_X86_64), "must be x86-64"),
        ("e_version", 20, u64::from(file.version), u64::from(abi::EV_CURRENT), "must be 1"),
        ("e_flags", 48, u64::from(file.e_flags), 0, "must be 0"),
        ("e_ehsize", 52, u64::from(file.e_ehsize), HEADER_BYTES as u64, "must be 64"),
        ("e_phentsize", 54, u64::from(file.e_phentsize), u64::from(PROGRAM_HEADER_BYTES), "must be 56"),
    ];
    for (name, offset, value, wanted, rule) in rules {
        if value != wanted {
            return Err(field(name, offset, value, rule));
        }
    }
    if file.osabi != abi::ELFOSABI_SYSV && file.osabi != abi::ELFOSABI_LINUX {
        return Err(field("e_ident", 7, file.osabi.into(), "the OS ABI must be System V or GNU"));
    }
    Ok(file)
}

fn bad_ident(error: ParseError) -> ImageError {
    match error {
        ParseError::BadMagic(magic) => {
            field("e_ident", 0, u32::from_le_bytes(magic).into(), "must start with 0x7f ELF")
        }
        ParseError::UnsupportedElfClass(class) => field("e_ident", 4, class.into(), "must be 64-bit"),
        ParseError::UnsupportedElfEndianness(data) => {
            field("e_ident", 5, data.into(), "must be little-endian")
        }
        ParseError::UnsupportedVersion((version, _)) => field("e_ident", 6, version, "must be version 1"),
        _ => field("e_ident", 0, 0, "is not an ELF identification"),
    }
}

fn read_segments(elf: &[u8], file: &FileHeader<LittleEndian>) -> Result<Vec<Segment>, ImageError> {
    if file.e_phnum == 0 || file.e_phnum > PROGRAM_HEADERS_MAX {
        return Err(field("e_phnum", 56, file.e_phnum.into(), "must be 1 to 16"));
    }
    if file.e_phoff < HEADER_BYTES as u64 {
        return Err(field("e_phoff", 32, file.e_phoff, "must lie behind the file header"));
    }
    let bytes = u64::from(file.e_phnum) * u64::from(PROGRAM_HEADER_BYTES);
    let table = slice(elf, file.e_phoff, bytes).ok_or(field(
        "e_phoff",
        32,
        file.e_phoff,
        "the program headers must lie in the file",
    ))?;
    let mut segments: Vec<Segment> = Vec::new();
    for (index, header) in SegmentTable::new(LittleEndian, file.class, table).iter().enumerate() {
        let offset = file.e_phoff + index as u64 * u64::from(PROGRAM_HEADER_BYTES);
        match header.p_type {
            abi::PT_LOAD => segments.push(read_segment(elf, &header, offset, segments.last())?),
            abi::PT_GNU_STACK if header.p_flags & abi::PF_X == 0 => {}
            abi::PT_GNU_STACK => {
                return Err(field(
                    "p_flags",
                    offset + at::P_FLAGS,
                    header.p_flags.into(),
                    "an executable stack",
                ));
            }
            other => {
                let rule = "only PT_LOAD and PT_GNU_STACK are allowed";
                return Err(field("p_type", offset + at::P_TYPE, other.into(), rule));
            }
        }
    }
    Ok(segments)
}

fn read_segment(
    elf: &[u8],
    header: &ProgramHeader,
    offset: u64,
    previous: Option<&Segment>,
) -> Result<Segment, ImageError> {
    let refuse = |name, at, value, rule| Err(field(name, offset + at, value, rule));
    let access = match header.p_flags {
        flags if flags == abi::PF_R | abi::PF_X => Access::ReadExecute,
        abi::PF_R => Access::Read,
        flags if flags == abi::PF_R | abi::PF_W => Access::ReadWrite,
        flags => return refuse("p_flags", at::P_FLAGS, flags.into(), "must be r-x, r-- or rw-"),
    };
    let start = header.p_vaddr;
    if start < IMAGE_BASE || !start.is_multiple_of(LARGE_PAGE_BYTES) || start >= MEMORY_BYTES_MAX {
        return refuse(
            "p_vaddr",
            at::P_VADDR,
            start,
            "must be a 2 MiB boundary from 0x200000, inside memory",
        );
    }
    let free =
        previous.map_or(IMAGE_BASE, |s| (s.extent.start + s.extent.bytes).next_multiple_of(LARGE_PAGE_BYTES));
    if start < free {
        return refuse(
            "p_vaddr",
            at::P_VADDR,
            start,
            "must lie behind the 2 MiB pages of the segment before it",
        );
    }
    if header.p_memsz == 0 || header.p_memsz > MEMORY_BYTES_MAX - start {
        return refuse("p_memsz", at::P_MEMSZ, header.p_memsz, "must be positive and end inside 16 GiB");
    }
    if header.p_filesz > header.p_memsz {
        return refuse("p_filesz", at::P_FILESZ, header.p_filesz, "must not exceed p_memsz");
    }
    if header.p_align > 1 && !header.p_align.is_power_of_two() {
        return refuse("p_align", at::P_ALIGN, header.p_align, "must be a power of two");
    }
    let Some(file) = range(elf, header.p_offset, header.p_filesz) else {
        return refuse("p_offset", at::P_OFFSET, header.p_offset, "the segment must lie in the file");
    };
    Ok(Segment { extent: Extent { start, bytes: header.p_memsz, access }, file })
}

/// `[offset, offset + bytes)` as indexes into the file, if it lies in it.
pub(super) fn range(elf: &[u8], offset: u64, bytes: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    (end <= elf.len()).then_some(start..end)
}

pub(super) fn slice(elf: &[u8], offset: u64, bytes: u64) -> Option<&[u8]> {
    elf.get(range(elf, offset, bytes)?)
}
