//! A writer of small ELF files for tests.

/// Program header type, flags, file offset, address, bytes in the file, bytes in memory.
type ProgramHeader = (u32, u32, u64, u64, u64, u64);

/// An image in the making: three segments and some function symbols.
#[derive(Clone)]
pub(crate) struct ElfFile {
    pub(crate) text: Vec<u8>,
    pub(crate) rodata: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) bss_bytes: u64,
    /// Name, offset in the text, size.
    pub(crate) functions: Vec<(&'static str, u64, u64)>,
    pub(crate) entry: u64,
}

pub(crate) const TEXT: u64 = 0x20_0000;
pub(crate) const RODATA: u64 = 0x40_0000;
pub(crate) const DATA: u64 = 0x60_0000;
/// Where the text lies in the file.
pub(crate) const TEXT_OFFSET: u64 = 0x1000;

impl ElfFile {
    /// An image with this text, entered at its start.
    pub(crate) fn of_text(text: &[u8]) -> Self {
        Self {
            text: text.to_vec(),
            rodata: b"constant".to_vec(),
            data: vec![7; 5000],
            bss_bytes: 100_000,
            functions: vec![("_start", 0, text.len() as u64)],
            entry: TEXT,
        }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let rodata_at = TEXT_OFFSET + self.text.len() as u64;
        let data_at = rodata_at + self.rodata.len() as u64;
        let data_bytes = self.data.len() as u64;
        let headers: [ProgramHeader; 4] = [
            (1, 5, TEXT_OFFSET, TEXT, self.text.len() as u64, self.text.len() as u64),
            (1, 4, rodata_at, RODATA, self.rodata.len() as u64, self.rodata.len() as u64),
            (1, 6, data_at, DATA, data_bytes, data_bytes + self.bss_bytes),
            (0x6474_e551, 6, 0, 0, 0, 0),
        ];
        let (symbols, strings) = self.symbols();
        let symbols_at = data_at + data_bytes;
        let strings_at = symbols_at + symbols.len() as u64;
        let sections_at = strings_at + strings.len() as u64;

        let mut elf = self.header(headers.len() as u16, sections_at);
        for (kind, flags, offset, address, file_bytes, memory_bytes) in headers {
            elf.extend(kind.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            for word in [offset, address, address, file_bytes, memory_bytes, 0x1000] {
                elf.extend(word.to_le_bytes());
            }
        }
        elf.resize(TEXT_OFFSET as usize, 0);
        for part in [&self.text, &self.rodata, &self.data, &symbols, &strings] {
            elf.extend_from_slice(part);
        }
        section(&mut elf, 0, 0, 0, 0, 0);
        section(&mut elf, 2, symbols_at, symbols.len() as u64, 2, 24);
        section(&mut elf, 3, strings_at, strings.len() as u64, 0, 0);
        elf
    }

    fn header(&self, program_headers: u16, sections_at: u64) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [self.entry, 64, sections_at] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend([0; 4]);
        for half in [64, 56, program_headers, 64, 3, 2] {
            elf.extend(half.to_le_bytes());
        }
        elf
    }

    fn symbols(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut symbols, mut strings) = (vec![0; 24], vec![0]);
        for (name, offset, bytes) in &self.functions {
            symbols.extend((strings.len() as u32).to_le_bytes());
            symbols.extend([0x12, 0, 1, 0]);
            symbols.extend((TEXT + offset).to_le_bytes());
            symbols.extend(bytes.to_le_bytes());
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        (symbols, strings)
    }
}

fn section(elf: &mut Vec<u8>, kind: u32, offset: u64, bytes: u64, link: u32, entry_bytes: u64) {
    elf.extend([0; 4]);
    elf.extend(kind.to_le_bytes());
    elf.extend([0; 16]);
    elf.extend(offset.to_le_bytes());
    elf.extend(bytes.to_le_bytes());
    elf.extend(link.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend(entry_bytes.to_le_bytes());
}
