//! Instructions that must not be in an image.

use super::elf_file::{ElfFile, TEXT, TEXT_OFFSET};
use crate::image::{BadInstruction, Image, ImageError, Reason};
use proptest::prelude::*;

const FILLER: usize = 37;

/// Every kind of forbidden instruction, with the reason it is refused for.
const FORBIDDEN: &[(&str, &[u8], Reason)] = &[
    ("rdrand", &[0x48, 0x0f, 0xc7, 0xf0], Reason::ReadsOutside),
    ("rdseed", &[0x0f, 0xc7, 0xf8], Reason::ReadsOutside),
    ("rdpid", &[0xf3, 0x0f, 0xc7, 0xf8], Reason::ReadsOutside),
    ("rdpru", &[0x0f, 0x01, 0xfd], Reason::ReadsOutside),
    ("rdtsc", &[0x0f, 0x31], Reason::ReadsOutside),
    ("rdtscp", &[0x0f, 0x01, 0xf9], Reason::ReadsOutside),
    ("rdpmc", &[0x0f, 0x33], Reason::ReadsOutside),
    ("cpuid", &[0x0f, 0xa2], Reason::ReadsOutside),
    ("xbegin", &[0xc7, 0xf8, 0, 0, 0, 0], Reason::ReadsOutside),
    ("xend", &[0x0f, 0x01, 0xd5], Reason::ReadsOutside),
    ("xtest", &[0x0f, 0x01, 0xd6], Reason::ReadsOutside),
    ("xabort", &[0xc6, 0xf8, 0], Reason::ReadsOutside),
    ("umonitor", &[0xf3, 0x0f, 0xae, 0xf0], Reason::ReadsOutside),
    ("umwait", &[0xf2, 0x0f, 0xae, 0xf0], Reason::ReadsOutside),
    ("tpause", &[0x66, 0x0f, 0xae, 0xf0], Reason::ReadsOutside),
    ("monitorx", &[0x0f, 0x01, 0xfa], Reason::ReadsOutside),
    ("mwaitx", &[0x0f, 0x01, 0xfb], Reason::ReadsOutside),
    ("xgetbv", &[0x0f, 0x01, 0xd0], Reason::UndigestedState),
    ("xsave", &[0x0f, 0xae, 0x20], Reason::UndigestedState),
    ("xsave64", &[0x48, 0x0f, 0xae, 0x20], Reason::UndigestedState),
    ("xsaveopt", &[0x0f, 0xae, 0x30], Reason::UndigestedState),
    ("xsavec", &[0x0f, 0xc7, 0x20], Reason::UndigestedState),
    ("xsaves", &[0x0f, 0xc7, 0x28], Reason::UndigestedState),
    ("xrstor", &[0x0f, 0xae, 0x28], Reason::UndigestedState),
    ("xrstors", &[0x0f, 0xc7, 0x18], Reason::UndigestedState),
    ("fxsave", &[0x0f, 0xae, 0x00], Reason::UndigestedState),
    ("fxrstor64", &[0x48, 0x0f, 0xae, 0x08], Reason::UndigestedState),
    ("fnstenv", &[0xd9, 0x30], Reason::UndigestedState),
    ("fnsave", &[0xdd, 0x30], Reason::UndigestedState),
    ("rdfsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc0], Reason::UndigestedState),
    ("rdgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc8], Reason::UndigestedState),
    ("wrfsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd0], Reason::UndigestedState),
    ("wrgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd8], Reason::UndigestedState),
    ("rdpkru", &[0x0f, 0x01, 0xee], Reason::UndigestedState),
    ("wrpkru", &[0x0f, 0x01, 0xef], Reason::UndigestedState),
    ("rdsspq", &[0xf3, 0x48, 0x0f, 0x1e, 0xc8], Reason::UndigestedState),
    ("testui", &[0xf3, 0x0f, 0x01, 0xed], Reason::UndigestedState),
    ("ldtilecfg", &[0xc4, 0xe2, 0x78, 0x49, 0x00], Reason::UndigestedState),
    ("syscall", &[0x0f, 0x05], Reason::EntersSupervisor),
    ("sysenter", &[0x0f, 0x34], Reason::EntersSupervisor),
    ("int", &[0xcd, 0x80], Reason::EntersSupervisor),
    ("int1", &[0xf1], Reason::EntersSupervisor),
    ("vmcall", &[0x0f, 0x01, 0xc1], Reason::EntersSupervisor),
    ("vmmcall", &[0x0f, 0x01, 0xd9], Reason::EntersSupervisor),
    ("vmfunc", &[0x0f, 0x01, 0xd4], Reason::EntersSupervisor),
    ("getsec", &[0x0f, 0x37], Reason::EntersSupervisor),
    ("enclu", &[0x0f, 0x01, 0xd7], Reason::EntersSupervisor),
    ("iretq", &[0x48, 0xcf], Reason::PlatformDependent),
    ("iretd", &[0xcf], Reason::PlatformDependent),
    ("retf", &[0xcb], Reason::PlatformDependent),
    ("retf", &[0xca, 0, 0], Reason::PlatformDependent),
    ("call", &[0xff, 0x18], Reason::PlatformDependent),
    ("jmp", &[0xff, 0x28], Reason::PlatformDependent),
    ("pushfq", &[0x9c], Reason::PlatformDependent),
    ("popfq", &[0x9d], Reason::PlatformDependent),
    ("mov", &[0x8c, 0xc8], Reason::PlatformDependent),
    ("mov", &[0x8e, 0xd8], Reason::PlatformDependent),
    ("push", &[0x0f, 0xa0], Reason::PlatformDependent),
    ("pop", &[0x0f, 0xa9], Reason::PlatformDependent),
    ("lss", &[0x0f, 0xb2, 0x00], Reason::PlatformDependent),
    ("lar", &[0x0f, 0x02, 0xc0], Reason::PlatformDependent),
    ("lsl", &[0x0f, 0x03, 0xc0], Reason::PlatformDependent),
    ("verr", &[0x0f, 0x00, 0xe0], Reason::PlatformDependent),
    ("verw", &[0x0f, 0x00, 0xe8], Reason::PlatformDependent),
    ("sgdt", &[0x0f, 0x01, 0x00], Reason::PlatformDependent),
    ("sidt", &[0x0f, 0x01, 0x08], Reason::PlatformDependent),
    ("sldt", &[0x0f, 0x00, 0xc0], Reason::PlatformDependent),
    ("str", &[0x0f, 0x00, 0xc8], Reason::PlatformDependent),
    ("smsw", &[0x0f, 0x01, 0xe0], Reason::PlatformDependent),
    ("rsqrtps", &[0x0f, 0x52, 0xc0], Reason::PlatformDependent),
    ("vrcpps", &[0xc5, 0xf8, 0x53, 0xc0], Reason::PlatformDependent),
    ("fsin", &[0xd9, 0xfe], Reason::PlatformDependent),
    ("hlt", &[0xf4], Reason::Privileged),
    ("cli", &[0xfa], Reason::Privileged),
    ("sti", &[0xfb], Reason::Privileged),
    ("in", &[0xec], Reason::Privileged),
    ("out", &[0xee], Reason::Privileged),
    ("insb", &[0x6c], Reason::Privileged),
    ("outsd", &[0x6f], Reason::Privileged),
    ("wrmsr", &[0x0f, 0x30], Reason::Privileged),
    ("rdmsr", &[0x0f, 0x32], Reason::Privileged),
    ("swapgs", &[0x0f, 0x01, 0xf8], Reason::Privileged),
    ("mov", &[0x0f, 0x20, 0xc0], Reason::Privileged),
    ("invlpg", &[0x0f, 0x01, 0x38], Reason::Privileged),
    ("clflush", &[0x0f, 0xae, 0x38], Reason::FeatureNotAllowed),
    ("clzero", &[0x0f, 0x01, 0xfc], Reason::FeatureNotAllowed),
    ("vpxord", &[0x62, 0xf1, 0x7d, 0x48, 0xef, 0xc0], Reason::FeatureNotAllowed),
    ("kmovw", &[0xc5, 0xf8, 0x92, 0xc0], Reason::FeatureNotAllowed),
    ("vaddps", &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0], Reason::FeatureNotAllowed),
    ("je", &[0x66, 0x0f, 0x84, 0, 0, 0, 0], Reason::VendorsDisagree),
    ("ud1", &[0x0f, 0xb9, 0xc0], Reason::VendorsDisagree),
    ("(bad)", &[0x06], Reason::Invalid),
    ("(bad)", &[0xc4, 0xff, 0xff], Reason::Invalid),
    ("(bad)", &[0xf0, 0x90], Reason::Invalid),
];

fn refused(elf: &ElfFile) -> BadInstruction {
    match Image::admit(&elf.build()) {
        Err(ImageError::Instruction(bad)) => *bad,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("admitted"),
    }
}

fn text_with(specimen: &[u8]) -> Vec<u8> {
    [&[0x90; FILLER][..], specimen, &[0xc3]].concat()
}

#[test]
fn every_forbidden_instruction_is_refused_with_its_place_and_name() {
    for (mnemonic, bytes, reason) in FORBIDDEN {
        let bad = refused(&ElfFile::of_text(&text_with(bytes)));
        assert_eq!((bad.mnemonic.as_str(), bad.reason), (*mnemonic, *reason), "{bytes:x?}");
        assert_eq!(bad.offset, TEXT_OFFSET + FILLER as u64, "{mnemonic}");
        assert_eq!(bad.address, TEXT + FILLER as u64, "{mnemonic}");
        assert_eq!(bad.symbol, Some(("_start".to_owned(), FILLER as u64)));
        assert_eq!(bad.inside, None);
        let text = bad.to_string();
        assert!(text.contains(mnemonic) && text.contains("0x1025") && text.contains("_start+0x25"), "{text}");
    }
}

#[test]
fn an_untrapped_instruction_hidden_in_another_is_refused() {
    let hidden: &[(&str, &[u8])] = &[
        ("rdrand", &[0x0f, 0xc7, 0xf0]),
        ("rdseed", &[0x0f, 0xc7, 0xf8]),
        ("rdtscp", &[0x0f, 0x01, 0xf9]),
        ("rdpru", &[0x0f, 0x01, 0xfd]),
        ("xgetbv", &[0x0f, 0x01, 0xd0]),
        ("xsave", &[0x0f, 0xae, 0x20]),
        ("xrstor", &[0x0f, 0xae, 0x28]),
        ("rdpkru", &[0x0f, 0x01, 0xee]),
        ("wrpkru", &[0x0f, 0x01, 0xef]),
        ("rdgsbase", &[0xf3, 0x0f, 0xae, 0xc8]),
        ("tpause", &[0x66, 0x0f, 0xae, 0xf0]),
        ("sysenter", &[0x0f, 0x34]),
        ("vmcall", &[0x0f, 0x01, 0xc1]),
    ];
    for (mnemonic, bytes) in hidden {
        // mov rax, imm64: the immediate carries the instruction.
        let mut text = vec![0x90, 0x48, 0xb8];
        text.extend_from_slice(bytes);
        text.resize(11, 0x90);
        text.push(0xc3);
        let bad = refused(&ElfFile::of_text(&text));
        assert_eq!(bad.mnemonic, *mnemonic);
        assert_eq!((bad.address, bad.inside), (TEXT + 3, Some(TEXT + 1)), "{mnemonic}");
        assert!(bad.to_string().contains("hidden in the instruction at 0x200001"));
    }
}

#[test]
fn an_instruction_completed_by_the_zeros_behind_the_text_is_refused() {
    // 0f 00 00 is sldt [rax]; the file holds only its first byte.
    let bad = refused(&ElfFile::of_text(&[0x90, 0x0f]));
    assert_eq!((bad.mnemonic.as_str(), bad.address), ("sldt", TEXT + 1));
}

#[test]
fn a_direct_branch_into_an_instruction_is_refused() {
    // jmp into the immediate of mov, whose bytes would be `int 0x80`.
    let bad = refused(&ElfFile::of_text(&[0xeb, 0x01, 0xb8, 0xcd, 0x80, 0x90, 0x90, 0xc3]));
    assert_eq!((bad.mnemonic.as_str(), bad.reason), ("jmp", Reason::BranchTarget));
    let backwards = refused(&ElfFile::of_text(&[0x90, 0xeb, 0xf0, 0xc3]));
    assert_eq!(backwards.reason, Reason::BranchTarget);
    let behind = refused(&ElfFile::of_text(&[0xe8, 0, 0x10, 0, 0, 0xc3]));
    assert_eq!((behind.mnemonic.as_str(), behind.reason), ("call", Reason::BranchTarget));
}

#[test]
fn a_function_symbol_inside_an_instruction_is_refused() {
    let mut elf = ElfFile::of_text(&[0xb8, 1, 2, 3, 4, 0xc3]);
    elf.functions.push(("inside", 2, 1));
    let bad = refused(&elf);
    assert_eq!((bad.reason, bad.address), (Reason::CrossesFunction, TEXT));
}

#[test]
fn only_zeros_between_functions_are_padding() {
    let zeros = [&[0xc3][..], &[0; 31], &[0xc3]].concat();
    let mut elf = ElfFile::of_text(&zeros);
    elf.functions = vec![("first", 0, 1), ("second", 32, 1)];
    assert!(Image::admit(&elf.build()).is_ok(), "an odd number of zeros would swallow the second function");

    elf.text[11..14].copy_from_slice(&[0x0f, 0xc7, 0xf0]);
    let bad = refused(&elf);
    assert_eq!((bad.mnemonic.as_str(), bad.address, bad.inside), ("rdrand", TEXT + 11, None));
}

#[test]
fn what_compilers_emit_is_admitted() {
    let quiet: &[&[u8]] = &[
        &[0xf3, 0x0f, 0x1e, 0xfa],                            // endbr64
        &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], // long nop
        &[0xcc],                                              // int3
        &[0x0f, 0x0b],                                        // ud2
        &[0xf3, 0x90],                                        // pause
        &[0xf3, 0x48, 0xa5],                                  // rep movsq
        &[0xf0, 0x48, 0x0f, 0xb1, 0x0f],                      // lock cmpxchg
        &[0x0f, 0xae, 0xf0],                                  // mfence
        &[0x0f, 0xae, 0xe8],                                  // lfence
        &[0x0f, 0x18, 0x08],                                  // prefetcht0
        &[0xf3, 0x48, 0x0f, 0xb8, 0xc0],                      // popcnt
        &[0xf3, 0x48, 0x0f, 0xbd, 0xc0],                      // lzcnt
        &[0xf3, 0x48, 0x0f, 0xbc, 0xc0],                      // tzcnt
        &[0x66, 0x0f, 0x38, 0xf6, 0xc0],                      // adcx
        &[0xc4, 0xe2, 0xfb, 0xf6, 0xc0],                      // mulx
        &[0xc4, 0xe2, 0xf1, 0x98, 0xc2],                      // vfmadd132pd
        &[0xc5, 0xfd, 0xfe, 0xc1],                            // vpaddd ymm
        &[0xc5, 0xf8, 0x77],                                  // vzeroupper
        &[0x66, 0x0f, 0x38, 0xdc, 0xc1],                      // aesenc
        &[0x0f, 0x38, 0xcb, 0xc1],                            // sha256rnds2
        &[0x0f, 0xae, 0x10],                                  // ldmxcsr
        &[0xd9, 0x28],                                        // fldcw
        &[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0],          // mov rax, fs:[0]
        &[0x9e],                                              // sahf
        &[0xfd, 0xfc],                                        // std; cld
    ];
    for bytes in quiet {
        let admitted = Image::admit(&ElfFile::of_text(&text_with(bytes)).build());
        assert!(admitted.is_ok(), "{bytes:x?}: {}", admitted.unwrap_err());
    }
}

proptest! {
    #[test]
    fn random_text_never_panics_and_never_hides_rdrand(
        mut text in prop::collection::vec(any::<u8>(), 8..400), at: prop::sample::Index,
    ) {
        let at = at.index(text.len() - 3);
        text[at..at + 3].copy_from_slice(&[0x0f, 0xc7, 0xf0]);
        prop_assert!(Image::admit(&ElfFile::of_text(&text).build()).is_err());
    }

    #[test]
    fn random_text_terminates(text in prop::collection::vec(any::<u8>(), 1..2000)) {
        let _ = Image::admit(&ElfFile::of_text(&text).build());
    }
}
