use std::collections::BTreeMap;

use elf::{ElfBytes, abi, endian::LittleEndian, segment::ProgramHeader};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use quorate_guest_abi::{IMAGE_BASE, LARGE_PAGE_BYTES};

use crate::specimen::{FORBIDDEN, TEXT, image_with};
use crate::{ALL, GuestImage};

fn parse(elf: &[u8]) -> ElfBytes<'_, LittleEndian> {
    ElfBytes::minimal_parse(elf).expect("an ELF file")
}

fn loads(elf: &[u8]) -> Vec<ProgramHeader> {
    let segments: Vec<_> = parse(elf).segments().expect("program headers").iter().collect();
    assert!(
        segments.iter().all(|segment| segment.p_type == abi::PT_LOAD || segment.p_type == abi::PT_GNU_STACK)
    );
    segments.into_iter().filter(|segment| segment.p_type == abi::PT_LOAD).collect()
}

fn text(elf: &[u8]) -> (&[u8], u64) {
    let segment = loads(elf).into_iter().find(|segment| segment.p_flags & abi::PF_X != 0).expect("a text");
    let start = segment.p_offset as usize;
    (&elf[start..start + segment.p_filesz as usize], segment.p_vaddr)
}

/// What the instruction is called if no image may contain it.
fn forbidden(instruction: &Instruction) -> Option<String> {
    let same_as_listed = FORBIDDEN.iter().any(|(_, bytes)| {
        let listed = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        // The forms of these are distinguished by operand, not by mnemonic.
        let by_code = matches!(
            listed.mnemonic(),
            Mnemonic::Mov | Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Jmp
        );
        if by_code {
            listed.code() == instruction.code()
        } else {
            listed.mnemonic() == instruction.mnemonic()
        }
    });
    let segment_register = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).is_segment_register()
    });
    (same_as_listed || segment_register || instruction.is_privileged())
        .then(|| format!("{:?} at {:#x}", instruction.code(), instruction.ip()))
}

#[test]
fn images_contain_no_forbidden_instruction() {
    for image in ALL {
        let (bytes, address) = text(image.elf);
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        let mut found = BTreeMap::new();
        for instruction in &mut decoder {
            assert_ne!(instruction.code(), Code::INVALID, "{image:?} at {:#x}", instruction.ip());
            if let Some(name) = forbidden(&instruction) {
                found.insert(instruction.ip(), name);
            }
        }
        assert!(found.is_empty(), "{image:?}: {found:?}");
    }
}

#[test]
fn images_have_three_segments_on_large_page_boundaries_and_none_is_writable_and_executable() {
    for image in ALL {
        let segments = loads(image.elf);
        let flags: Vec<u32> = segments.iter().map(|segment| segment.p_flags).collect();
        assert_eq!(flags, [abi::PF_R | abi::PF_X, abi::PF_R, abi::PF_R | abi::PF_W], "{image:?}");
        assert_eq!(segments[0].p_vaddr, IMAGE_BASE);
        let mut free = IMAGE_BASE;
        for segment in segments {
            assert!(
                segment.p_vaddr >= free && segment.p_vaddr.is_multiple_of(LARGE_PAGE_BYTES),
                "{segment:?}"
            );
            assert!(segment.p_filesz <= segment.p_memsz && segment.p_memsz > 0, "{segment:?}");
            free = (segment.p_vaddr + segment.p_memsz).next_multiple_of(LARGE_PAGE_BYTES);
        }
    }
}

#[test]
fn images_keep_symbols_but_no_debug_information_and_no_path_of_the_build_machine() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let home = std::env::home_dir().map(|home| home.join(".cargo").display().to_string());
    for image in ALL {
        let file = parse(image.elf);
        let (symbols, names) = file.symbol_table().expect("sections").expect("a symbol table");
        let named = |part: &str| {
            symbols.iter().any(|s| names.get(s.st_name as usize).is_ok_and(|n| n.contains(part)))
        };
        assert!(named("_start") && named("quorate_guest_main"), "{image:?}");
        let (sections, strings) = file.section_headers_with_strtab().expect("sections");
        let strings = strings.expect("section names");
        for section in sections.expect("section headers").iter() {
            let name = strings.get(section.sh_name as usize).expect("a name");
            assert!(!name.starts_with(".debug") && !name.starts_with(".note"), "{image:?}: {name}");
        }
        for path in [Some(root.to_owned()), home.clone()].into_iter().flatten() {
            assert!(!contains(image.elf, path.as_bytes()), "{image:?} mentions {path}");
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn names_find_their_images() {
    for image in ALL {
        assert_eq!(GuestImage::by_name(image.name), Some(image));
    }
    assert_eq!(GuestImage::by_name("nothing"), None);
}

#[test]
fn every_forbidden_encoding_is_one_instruction_of_its_name() {
    for (mnemonic, bytes) in FORBIDDEN {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        assert_eq!(instruction.len(), bytes.len(), "{mnemonic}");
        assert_eq!(format!("{:?}", instruction.mnemonic()).to_lowercase(), *mnemonic);
        assert!(forbidden(&instruction).is_some(), "{mnemonic}");
    }
}

#[test]
fn a_specimen_holds_its_bytes_at_the_entry_point_and_then_an_exit() {
    let elf = image_with(&[0x90, 0x0f, 0xa2]);
    assert_eq!(parse(&elf).ehdr.e_entry, TEXT);
    let (bytes, address) = text(&elf);
    assert_eq!((&bytes[..3], address), (&[0x90, 0x0f, 0xa2][..], TEXT));
    let rest: Vec<Instruction> =
        Decoder::with_ip(64, &bytes[3..], TEXT + 3, DecoderOptions::NONE).iter().collect();
    assert!(rest.iter().all(|instruction| !instruction.is_invalid() && forbidden(instruction).is_none()));
    assert_eq!(rest[4].mnemonic(), Mnemonic::Mov, "the doorbell store");
}
