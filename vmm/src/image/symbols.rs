//! The symbol table: names for crash reports, function starts for the decoder.

use super::error::ImageError;
use super::headers::{Headers, field, slice};
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::FileHeader;
use elf::section::{SectionHeader, SectionHeaderTable};
use elf::string_table::StringTable;
use elf::symbol::{Symbol, SymbolTable};
use std::ops::Range;

const SECTION_HEADER_BYTES: u16 = 64;
const SECTIONS_MAX: u16 = 256;
const SYMBOL_BYTES: u64 = 24;
const SYMBOLS_MAX: u64 = 65_536;
const NAME_BYTES_MAX: usize = 4096;

/// A named address in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    start: u64,
    /// 0 if unknown, as for labels of assembly code.
    bytes: u64,
    name: String,
    function: bool,
}

/// Symbols of the text, by ascending address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbols(Vec<Named>);

impl Symbols {
    /// Reads `.symtab` if the file has one.
    pub(super) fn read(elf: &[u8], headers: &Headers) -> Result<Self, ImageError> {
        let Some(sections) = section_headers(elf, &headers.file)? else { return Ok(Self::default()) };
        let Some((index, table)) = sections.iter().enumerate().find(|(_, s)| s.sh_type == abi::SHT_SYMTAB)
        else {
            return Ok(Self::default());
        };
        let at = headers.file.e_shoff + index as u64 * u64::from(SECTION_HEADER_BYTES);
        let strings = sections
            .iter()
            .nth(table.sh_link as usize)
            .filter(|section| section.sh_type == abi::SHT_STRTAB)
            .ok_or(field("sh_link", at + 40, table.sh_link.into(), "must name a string table"))?;
        let strings = contents(elf, &strings).ok_or(field(
            "sh_offset",
            headers.file.e_shoff + u64::from(table.sh_link) * u64::from(SECTION_HEADER_BYTES) + 24,
            strings.sh_offset,
            "the string table must lie in the file",
        ))?;
        let symbols = symbol_table(elf, headers, &table, at)?;
        let text = &headers.segments[headers.text];
        let range = text.extent.start..text.extent.start + text.file.len() as u64;
        let mut named = Vec::new();
        for (index, symbol) in symbols.iter().enumerate() {
            let at = table.sh_offset + index as u64 * SYMBOL_BYTES;
            named.extend(read_symbol(&symbol, at, &StringTable::new(strings), &range)?);
        }
        named.sort_by(|a, b| (a.start, a.function, &a.name).cmp(&(b.start, b.function, &b.name)));
        Ok(Self(named))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The symbol an address belongs to and the distance from it.
    pub(super) fn at(&self, address: u64) -> Option<(&str, u64)> {
        let behind = self.0.partition_point(|named| named.start <= address);
        let named = self.0[..behind].last()?;
        let distance = address - named.start;
        (named.bytes == 0 || distance < named.bytes).then_some((named.name.as_str(), distance))
    }

    /// Offsets of functions in the text that starts at `base`: ascending, each once, without the start itself.
    pub(super) fn function_offsets(&self, base: u64) -> Vec<usize> {
        let functions = self.0.iter().filter(|named| named.function && named.bytes > 0 && named.start > base);
        let mut offsets: Vec<usize> = functions.map(|named| (named.start - base) as usize).collect();
        offsets.dedup();
        offsets
    }
}

fn section_headers<'a>(
    elf: &'a [u8],
    file: &FileHeader<LittleEndian>,
) -> Result<Option<SectionHeaderTable<'a, LittleEndian>>, ImageError> {
    if file.e_shoff == 0 && file.e_shnum == 0 {
        return Ok(None);
    }
    if file.e_shnum == 0 || file.e_shnum > SECTIONS_MAX {
        return Err(field("e_shnum", 60, file.e_shnum.into(), "must be 1 to 256"));
    }
    if file.e_shentsize != SECTION_HEADER_BYTES {
        return Err(field("e_shentsize", 58, file.e_shentsize.into(), "must be 64"));
    }
    if file.e_shstrndx >= file.e_shnum {
        return Err(field("e_shstrndx", 62, file.e_shstrndx.into(), "must name a section"));
    }
    let bytes = u64::from(file.e_shnum) * u64::from(SECTION_HEADER_BYTES);
    let table = slice(elf, file.e_shoff, bytes).ok_or(field(
        "e_shoff",
        40,
        file.e_shoff,
        "the section headers must lie in the file",
    ))?;
    Ok(Some(SectionHeaderTable::new(LittleEndian, file.class, table)))
}

fn contents<'a>(elf: &'a [u8], section: &SectionHeader) -> Option<&'a [u8]> {
    slice(elf, section.sh_offset, section.sh_size)
}

fn symbol_table<'a>(
    elf: &'a [u8],
    headers: &Headers,
    table: &SectionHeader,
    at: u64,
) -> Result<SymbolTable<'a, LittleEndian>, ImageError> {
    if table.sh_entsize != SYMBOL_BYTES {
        return Err(field("sh_entsize", at + 56, table.sh_entsize, "must be 24 for symbols"));
    }
    if !table.sh_size.is_multiple_of(SYMBOL_BYTES) || table.sh_size / SYMBOL_BYTES > SYMBOLS_MAX {
        return Err(field("sh_size", at + 32, table.sh_size, "must be at most 65536 symbols of 24 bytes"));
    }
    let bytes = contents(elf, table).ok_or(field(
        "sh_offset",
        at + 24,
        table.sh_offset,
        "the symbol table must lie in the file",
    ))?;
    Ok(SymbolTable::new(LittleEndian, headers.file.class, bytes))
}

/// A function or label in the text; nothing for any other symbol.
fn read_symbol(
    symbol: &Symbol,
    at: u64,
    strings: &StringTable<'_>,
    text: &Range<u64>,
) -> Result<Option<Named>, ImageError> {
    let function = symbol.st_symtype() == abi::STT_FUNC;
    let label = symbol.st_symtype() == abi::STT_NOTYPE && symbol.st_name != 0;
    if symbol.is_undefined() || !(function || label) || !text.contains(&symbol.st_value) {
        return Ok(None);
    }
    let name =
        strings.get(symbol.st_name as usize).ok().filter(|name| name.len() <= NAME_BYTES_MAX).ok_or(
            field("st_name", at, symbol.st_name.into(), "must be a UTF-8 name of at most 4096 bytes"),
        )?;
    if function && symbol.st_size > text.end - symbol.st_value {
        return Err(field("st_size", at + 16, symbol.st_size, "a function must end in the text"));
    }
    let bytes = if function { symbol.st_size } else { 0 };
    Ok(Some(Named { start: symbol.st_value, bytes, name: name.to_owned(), function }))
}
