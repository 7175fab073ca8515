//! Files that would be images: whatever is admitted is a machine that nobody can put forbidden instructions into.

use quorate_attest::id::ImageDigest;
use quorate_vmm::Image;
use quorate_vmm::genesis::genesis;
use quorate_vmm::image::ImageError;
use quorate_vmm::machine::layout::Access;
use quorate_vmm::page_tree::{PAGE_BYTES, PageTree, hash_page};
use sha2::{Digest, Sha256};

use crate::cut::Cut;
use crate::must;

/// Size of a machine's memory, the smallest.
pub(crate) const MEMORY: u64 = 8 << 20;
const BASE: u64 = 0x20_0000;
const DATA: u64 = 0x40_0000;
const LARGE_PAGE: u64 = 2 << 20;

/// First bytes of instructions that no setting of the machine stops: wherever they lie, a computed jump reaches them.
const UNTRAPPED: [&[u8]; 7] = [
    &[0x0f, 0x01, 0xf9], // rdtscp
    &[0x0f, 0x01, 0xd0], // xgetbv
    &[0x0f, 0x01, 0xee], // rdpkru
    &[0x0f, 0x01, 0xef], // wrpkru
    &[0x0f, 0x34],       // sysenter
    &[0x0f, 0xc7, 0xf0], // rdrand
    &[0x0f, 0xc7, 0xf8], // rdseed
];

/// Admits the bytes as a file, or as text of a file whose headers are right.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    if cut.flag() {
        return admit(cut.rest());
    }
    let functions: Vec<(u16, u16)> = (0..cut.below(4)).map(|_| (cut.word(), cut.word())).collect();
    let entry = cut.byte();
    admit(&file(cut.rest(), entry.into(), &functions));
}

fn admit(elf: &[u8]) {
    match Image::admit(elf) {
        Ok(image) => admitted(&image, elf),
        Err(error) => refused(&error, elf),
    }
}

fn refused(error: &ImageError, elf: &[u8]) {
    assert!(!error.kind().is_empty() && !error.to_string().is_empty());
    if let ImageError::Instruction(bad) = error {
        assert!(bad.offset < elf.len() as u64, "an instruction outside the file");
        assert!(bad.inside.is_none_or(|outer| outer <= bad.address && bad.address - outer < 16));
    }
}

fn admitted(image: &Image, elf: &[u8]) {
    assert_eq!(image.elf(), elf);
    assert_eq!(image.digest(), ImageDigest::from_bytes(Sha256::digest(elf).into()));
    let segments = image.segments();
    let mut free = BASE;
    for segment in segments {
        let extent = segment.extent;
        assert!(extent.start >= free && extent.start.is_multiple_of(LARGE_PAGE), "a page with two segments");
        assert!(elf.get(segment.file.clone()).is_some_and(|bytes| bytes.len() as u64 <= extent.bytes));
        free = (extent.start + extent.bytes).next_multiple_of(LARGE_PAGE);
    }
    let mut executable = segments.iter().filter(|segment| segment.extent.access == Access::ReadExecute);
    let (Some(text), None) = (executable.next(), executable.next()) else { panic!("not one text") };
    let bytes = &elf[text.file.clone()];
    let entry = image.entry().checked_sub(text.extent.start);
    assert!(entry.is_some_and(|entry| entry < bytes.len() as u64), "the entry point is not in the text");
    for forbidden in UNTRAPPED {
        let found = bytes.windows(forbidden.len()).position(|window| window == forbidden);
        assert_eq!(found, None, "{forbidden:x?} is in the text");
    }
    for address in [0, text.extent.start, image.entry(), text.extent.start + bytes.len() as u64, u64::MAX] {
        let symbol = image.symbol_of(address);
        assert!(symbol.is_none_or(|(_, distance)| distance <= address));
    }
    begins(image);
}

/// Slot 0 is the image's bytes at their places, and its measurement that of its pages.
fn begins(image: &Image) {
    let Ok(genesis) = genesis(image, MEMORY) else { return };
    let mut tree = PageTree::zero((MEMORY / PAGE_BYTES as u64) as u32);
    let leaves: Vec<_> = genesis.pages.iter().map(|(index, page)| (*index, hash_page(page))).collect();
    tree.update(&leaves);
    assert_eq!(tree.root(), *genesis.measurement.page_root.as_bytes());
    assert_eq!((tree.root(), u64::from(tree.count())), (genesis.tree.root(), genesis.measurement.page_count));
    assert_eq!(genesis.measurement.cpu, genesis.cpu.digest());
    for (address, bytes) in image.contents() {
        for (at, byte) in (address..).zip(bytes) {
            let (index, offset) = ((at / PAGE_BYTES as u64) as u32, at as usize % PAGE_BYTES);
            let there = genesis.pages.get(&index).map_or(0, |page| page[offset]);
            assert_eq!(there, *byte, "at {at:#x}");
        }
    }
    must(genesis.cpu.check());
}

/// A static file with this text, data of 4 KiB without contents, and functions in the text by offset and length.
pub(crate) fn file(text: &[u8], entry: u64, functions: &[(u16, u16)]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let symbols = HEADERS + text.len() as u64;
    let names = symbols + 24 * functions.len() as u64;
    let sections = names + 3;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&[2, 0, 62, 0, 1, 0, 0, 0]);
    [BASE + entry, 64, sections].iter().for_each(|word| put(&word.to_le_bytes()));
    put(&[0; 4]);
    [64u16, 56, 2, 64, 3, 2].iter().for_each(|half| put(&half.to_le_bytes()));
    let length = text.len() as u64;
    for (flags, words) in [(5u32, [HEADERS, BASE, BASE, length, length, 1]), (6, [0, DATA, DATA, 0, 4096, 1])]
    {
        put(&1u32.to_le_bytes());
        put(&flags.to_le_bytes());
        words.iter().for_each(|word| put(&word.to_le_bytes()));
    }
    put(text);
    for (start, bytes) in functions {
        put(&[1, 0, 0, 0, 0x12, 0, 1, 0]);
        [BASE + u64::from(*start), u64::from(*bytes)].iter().for_each(|word| put(&word.to_le_bytes()));
    }
    put(b"\0f\0");
    put(&[0; 64]);
    let table = 24 * functions.len() as u64;
    for (kind, offset, bytes, link, entry_bytes) in [(2u32, symbols, table, 2u32, 24u64), (3, names, 3, 0, 0)]
    {
        [0, kind].iter().for_each(|half| put(&half.to_le_bytes()));
        [0, 0, offset, bytes].iter().for_each(|word| put(&word.to_le_bytes()));
        [link, 0].iter().for_each(|half| put(&half.to_le_bytes()));
        [1, entry_bytes].iter().for_each(|word| put(&word.to_le_bytes()));
    }
    file
}

/// A program: a function of a few instructions, and one behind it that loops.
pub(crate) const PROGRAM: [u8; 32] = [
    0xbb, 0x00, 0x60, 0x00, 0x00, // mov ebx, 0x6000
    0x48, 0x31, 0xc0, // xor rax, rax
    0x48, 0x8d, 0x44, 0x03, 0x08, // lea rax, [rbx + rax + 8]
    0xe8, 0x06, 0x00, 0x00, 0x00, // call the next function
    0x74, 0xf4, // je the lea
    0x0f, 0x0b, // ud2
    0, 0, // padding
    0xc5, 0xfd, 0xef, 0xc0, // vpxor ymm0, ymm0, ymm0
    0xeb, 0xfa, // loop
    0xc3, 0x90, // ret, nop
];

/// Images that are admitted, and ones that hide what is forbidden.
pub fn seeds() -> Vec<Vec<u8>> {
    let functions = [(0, 22), (24, 8)];
    let elf = file(&PROGRAM, 0, &functions);
    admitted(&must(Image::admit(&elf)), &elf);
    let text = |text: &[u8]| [&[0, 0, 0][..], text].concat();
    let named: Vec<u8> = functions
        .iter()
        .flat_map(|(start, bytes): &(u16, u16)| [start.to_le_bytes(), bytes.to_le_bytes()].concat())
        .collect();
    let mut seeds = vec![[&[1][..], &elf].concat(), text(&PROGRAM)];
    seeds.push([&[0, 2][..], &named, &[0], &PROGRAM].concat());
    // Each of them inside the operand of a `mov`.
    seeds.extend(UNTRAPPED.iter().map(|forbidden| {
        let mut operand = [0x90; 4];
        operand[..forbidden.len()].copy_from_slice(forbidden);
        text(&[&[0xb8][..], &operand, &[0xc3]].concat())
    }));
    seeds
}
