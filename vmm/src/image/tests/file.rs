//! Malformed files.

use super::elf_file::{DATA, ElfFile, RODATA, TEXT, TEXT_OFFSET};
use crate::image::{IMAGE_BYTES_MAX, Image, ImageError};
use crate::machine::layout::Access;
use proptest::prelude::*;

/// `nop; ret`
const QUIET: [u8; 2] = [0x90, 0xc3];

fn file() -> Vec<u8> {
    ElfFile::of_text(&QUIET).build()
}

fn refused_field(elf: &[u8]) -> &'static str {
    let error = Image::admit(elf).expect_err("must be refused");
    assert_eq!(error.kind(), "ImageInvalid");
    assert!(error.to_string().contains(error.field()));
    error.field()
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut elf = file();
    elf[at..at + bytes.len()].copy_from_slice(bytes);
    elf
}

#[test]
fn a_well_formed_file_is_admitted_as_it_is() {
    let elf = file();
    let image = Image::admit(&elf).unwrap();
    assert_eq!(image.entry(), TEXT);
    assert_eq!(image.elf(), elf);
    let extents: Vec<_> = image.extents().iter().map(|e| (e.start, e.bytes, e.access)).collect();
    let wanted =
        [(TEXT, 2, Access::ReadExecute), (RODATA, 8, Access::Read), (DATA, 105_000, Access::ReadWrite)];
    assert_eq!(extents, wanted);
    let contents: Vec<_> = image.contents().collect();
    assert_eq!(contents[0], (TEXT, &QUIET[..]));
    assert_eq!(contents[1], (RODATA, &b"constant"[..]));
    assert_eq!(contents[2].1.len(), 5000);
}

#[test]
fn the_digest_is_the_sha256_of_the_whole_file() {
    let mut elf = file();
    let before = Image::admit(&elf).unwrap().digest();
    elf.push(0);
    assert_ne!(Image::admit(&elf).unwrap().digest(), before);
}

#[test]
fn symbols_name_addresses_of_the_text() {
    let mut elf = ElfFile::of_text(&[0x90; 64]);
    elf.functions = vec![("first", 0, 16), ("second", 32, 32)];
    let image = Image::admit(&elf.build()).unwrap();
    assert_eq!(image.symbol_of(TEXT), Some(("first", 0)));
    assert_eq!(image.symbol_of(TEXT + 15), Some(("first", 15)));
    assert_eq!(image.symbol_of(TEXT + 16), None, "between two functions");
    assert_eq!(image.symbol_of(TEXT + 33), Some(("second", 1)));
    assert_eq!(image.symbol_of(TEXT + 64), None);
    assert_eq!(image.symbol_of(0), None);
    assert_eq!(image.symbol_of(u64::MAX), None);
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let elf = file();
    for len in 0..elf.len() {
        assert!(Image::admit(&elf[..len]).is_err(), "cut to {len} of {} bytes", elf.len());
    }
}

#[test]
fn an_oversized_file_is_refused_before_it_is_read() {
    assert_eq!(refused_field(&vec![0x7f; IMAGE_BYTES_MAX + 1]), "e_ident");
}

#[test]
fn each_field_at_0_1_and_max_is_refused_or_harmless() {
    let original = file();
    let sections = original.len() - 3 * 64;
    let mut fields: Vec<(usize, usize)> = (0..16).map(|at| (at, 1)).collect();
    fields.extend([(16, 2), (18, 2), (20, 4), (24, 8), (32, 8), (40, 8), (48, 4)]);
    fields.extend((52..64).step_by(2).map(|at| (at, 2)));
    for header in (64..64 + 4 * 56).step_by(56) {
        fields.extend([(header, 4), (header + 4, 4)]);
        fields.extend((header + 8..header + 56).step_by(8).map(|at| (at, 8)));
    }
    for header in (sections..original.len()).step_by(64) {
        fields.extend([(header, 4), (header + 4, 4), (header + 40, 4), (header + 44, 4)]);
        fields.extend([8, 16, 24, 32, 48, 56].map(|at| (header + at, 8)));
    }
    let reference = Image::admit(&original).unwrap();
    for (at, len) in fields {
        for value in [0u64, 1, u64::MAX] {
            let elf = with(at, &value.to_le_bytes()[..len]);
            // What is admitted nevertheless must be the same machine, whatever its file says elsewhere.
            let Ok(image) = Image::admit(&elf) else { continue };
            let loads = |i: &Image| i.contents().map(|(a, b)| (a, b.to_vec())).collect::<Vec<_>>();
            let same = (image.entry(), loads(&image).len()) == (reference.entry(), loads(&reference).len());
            let names_segments = at == 56 || (64..64 + 4 * 56).contains(&at);
            assert!(names_segments || same, "field at {at} = {value:#x}");
            for extent in image.extents() {
                assert!(extent.bytes > 0 && extent.start % (2 << 20) == 0 && extent.start >= TEXT);
                assert!(extent.start.checked_add(extent.bytes).is_some_and(|end| end <= 16 << 30));
            }
        }
    }
}

#[test]
fn each_refusal_names_its_field() {
    let program = |index: usize, at: usize| 64 + 56 * index + at;
    let cases: [(usize, &[u8], &str); 24] = [
        (0, b"MZ", "e_ident"),
        (4, &[1], "e_ident"),
        (5, &[2], "e_ident"),
        (6, &[0], "e_ident"),
        (7, &[9], "e_ident"),
        (16, &[3, 0], "e_type"),
        (18, &[3, 0], "e_machine"),
        (24, &[0xff; 8], "e_entry"),
        (24, &(TEXT + 2).to_le_bytes(), "e_entry"),
        (32, &[0; 8], "e_phoff"),
        (48, &[1], "e_flags"),
        (54, &[57], "e_phentsize"),
        (56, &[0xff, 0xff], "e_phnum"),
        (60, &[0xff, 0xff], "e_shnum"),
        (program(3, 0), &[3], "p_type"),
        (program(3, 0), &[2], "p_type"),
        (program(3, 0), &[7], "p_type"),
        (program(3, 4), &[7], "p_flags"),
        (program(0, 4), &[7], "p_flags"),
        (program(0, 4), &[4], "p_flags"),
        (program(1, 4), &[5], "p_flags"),
        (program(1, 16), &TEXT.to_le_bytes(), "p_vaddr"),
        (program(1, 16), &(RODATA + 0x1000).to_le_bytes(), "p_vaddr"),
        (program(1, 32), &[9], "p_filesz"),
    ];
    for (at, bytes, wanted) in cases {
        assert_eq!(refused_field(&with(at, bytes)), wanted, "byte {at} = {bytes:x?}");
    }
}

#[test]
fn segments_that_share_a_large_page_are_refused() {
    // 3 MiB of rodata reach one page into the 2 MiB page at 0x600000 when rounded.
    let long = (2u64 << 20) + 1;
    assert_eq!(refused_field(&with(64 + 56 + 40, &long.to_le_bytes())), "p_vaddr");
}

#[test]
fn a_segment_that_wraps_around_the_address_space_is_refused() {
    assert_eq!(refused_field(&with(64 + 2 * 56 + 40, &u64::MAX.to_le_bytes())), "p_memsz");
    assert_eq!(refused_field(&with(64 + 2 * 56 + 16, &(u64::MAX << 21).to_le_bytes())), "p_vaddr");
    assert_eq!(refused_field(&with(64 + 2 * 56 + 8, &u64::MAX.to_le_bytes())), "p_offset");
}

#[test]
fn an_entry_inside_an_instruction_is_refused() {
    let mut elf = ElfFile::of_text(&[0xb8, 0x90, 0x90, 0x90, 0x90, 0xc3]);
    elf.entry = TEXT + 1;
    assert_eq!(refused_field(&elf.build()), "e_entry");
}

#[test]
fn a_symbol_table_out_of_bounds_is_refused() {
    let elf = file();
    let table = elf.len() - 128;
    let cases: [(usize, u64, &str); 5] = [
        (table + 24, u64::MAX, "sh_offset"),
        (table + 32, 24 * 65_537, "sh_size"),
        (table + 32, 25, "sh_size"),
        (table + 56, 23, "sh_entsize"),
        (table + 64 + 32, u64::MAX, "sh_offset"),
    ];
    for (at, value, wanted) in cases {
        assert_eq!(refused_field(&with(at, &value.to_le_bytes())), wanted);
    }
    assert_eq!(refused_field(&with(table + 40, &9u32.to_le_bytes())), "sh_link");
    let symbol = TEXT_OFFSET as usize + QUIET.len() + 8 + 5000 + 24;
    assert_eq!(refused_field(&with(symbol, &u32::MAX.to_le_bytes())), "st_name");
    assert_eq!(refused_field(&with(symbol + 16, &u64::MAX.to_le_bytes())), "st_size");
}

#[test]
fn a_file_without_sections_is_admitted_without_symbols() {
    let mut elf = with(40, &[0; 8]);
    elf[60..64].fill(0);
    let image = Image::admit(&elf).unwrap();
    assert_eq!(image.symbol_of(TEXT), None);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(Image::admit(&bytes).is_err());
    }

    #[test]
    fn any_damage_to_headers_or_symbols_is_refused_or_harmless(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut elf = file();
        let symbols = TEXT_OFFSET as usize + QUIET.len() + 8 + 5000;
        let places: Vec<usize> = (0..64 + 4 * 56).chain(symbols..elf.len()).collect();
        for (at, byte) in damage {
            elf[places[at.index(places.len())]] = byte;
        }
        match Image::admit(&elf) {
            Ok(image) => prop_assert!(image.extents().iter().any(|e| e.access == Access::ReadExecute)),
            Err(ImageError::Field { rule, .. }) => prop_assert!(!rule.is_empty()),
            Err(ImageError::Instruction(bad)) => prop_assert!(bad.address >= TEXT),
        }
    }
}
