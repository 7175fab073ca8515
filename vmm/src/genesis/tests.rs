use super::*;
use crate::image::tests::elf_file::{DATA, ElfFile, TEXT};
use crate::machine::Machine;
use crate::page_tree::is_zero;

const MEMORY: u64 = 16 << 20;

fn image() -> Image {
    Image::admit(&ElfFile::of_text(&[0xeb, 0xfe]).build()).unwrap()
}

#[test]
fn genesis_equals_the_measurement_of_a_booted_machine() {
    for memory_bytes in [8 << 20, MEMORY, 18 << 20, 1 << 30] {
        let genesis = genesis(&image(), memory_bytes).unwrap();
        let mut machine = Machine::boot(&image(), memory_bytes).unwrap();
        let measured = machine.measure().unwrap();
        assert_eq!(genesis.measurement, measured.measurement, "{memory_bytes} bytes");
        assert_eq!(genesis.pages.keys().copied().collect::<Vec<_>>(), measured.changed);
        assert_eq!(genesis.cpu, machine.cpu_state().unwrap());
        for (index, page) in &genesis.pages {
            assert_eq!(**page, *machine.read_page(*index), "page {index}");
        }
    }
}

#[test]
fn genesis_holds_image_and_boot_information_and_no_zero_page() {
    let genesis = genesis(&image(), MEMORY).unwrap();
    assert_eq!(genesis.pages[&((TEXT / 4096) as u32)][..3], [0xeb, 0xfe, 0]);
    assert_eq!(genesis.pages[&((DATA / 4096) as u32)][4095], 7);
    assert_eq!(genesis.pages[&((DATA / 4096) as u32 + 1)][903..905], [7, 0]);
    let mailbox = &genesis.pages[&((abi::MAILBOX / 4096) as u32)];
    assert_eq!(mailbox[64 + 8..64 + 16], MEMORY.to_le_bytes());
    assert!(genesis.pages.values().all(|page| !is_zero(page)));
    assert!(genesis.tree.nonzero().eq(genesis.pages.keys().copied()));
}

#[test]
fn every_part_of_the_image_and_the_memory_size_changes_the_root() {
    let root = |elf: &ElfFile, bytes| {
        genesis(&Image::admit(&elf.build()).unwrap(), bytes).unwrap().measurement.page_root
    };
    let base = ElfFile::of_text(&[0x90, 0xc3]);
    let reference = root(&base, MEMORY);
    let mut others = vec![base.clone(); 4];
    others[0].text[0] = 0xcc;
    others[1].rodata[0] ^= 1;
    others[2].data[4999] ^= 1;
    others[3].bss_bytes += 4096;
    for (index, other) in others.iter().enumerate() {
        assert_ne!(root(other, MEMORY), reference, "change {index}");
    }
    assert_ne!(root(&base, MEMORY + (2 << 20)), reference);
}

#[test]
fn an_image_that_does_not_fit_is_refused() {
    let mut elf = ElfFile::of_text(&[0xc3]);
    elf.bss_bytes = 32 << 20;
    let image = Image::admit(&elf.build()).unwrap();
    assert_eq!(genesis(&image, MEMORY).unwrap_err().kind(), "ImageInvalid");
    for memory_bytes in [0, 1, 4 << 20, MEMORY + 4096, 18 << 30, u64::MAX] {
        assert!(genesis(&image, memory_bytes).is_err(), "{memory_bytes}");
    }
}
