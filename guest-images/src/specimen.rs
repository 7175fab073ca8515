//! Small images made by hand, and the instructions no image may contain.
//!
//! Tests of image admission need files that are right in every respect but one. [`image_with`] makes them without a
//! compiler; [`FORBIDDEN`] lists what must keep a file from being admitted.

/// Where the text of a specimen begins in memory.
pub const TEXT: u64 = 0x20_0000;
/// Where its data begins in memory.
pub const DATA: u64 = 0x40_0000;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PAGE_BYTES: usize = 4096;

const READ_EXECUTE: u32 = 5;
const READ_WRITE: u32 = 6;

/// An EXIT with code 0, so that a specimen whose bytes fall through ends in good order.
const EXIT: [u8; 40] = [
    0xb8, 0x05, 0x00, 0x00, 0x00, // mov eax, 5
    0x48, 0x89, 0x04, 0x25, 0x00, 0x60, 0x00, 0x00, // mov [0x6000], rax
    0x48, 0xc7, 0x04, 0x25, 0x08, 0x60, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // mov qword [0x6008], 0
    0x48, 0xb9, 0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, // mov rcx, 0x40_0000_0000
    0x48, 0x89, 0x01, // mov [rcx], rax
    0x0f, 0x0b, // ud2
];

/// A minimal valid image: its text is `bytes` followed by an exit with code 0, its entry point the first byte, its data
/// one zeroed page.
pub fn image_with(bytes: &[u8]) -> Vec<u8> {
    let mut text = bytes.to_vec();
    text.extend(EXIT);

    let mut elf = Vec::with_capacity(PAGE_BYTES + text.len());
    elf.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend(2u16.to_le_bytes()); // static executable
    elf.extend(62u16.to_le_bytes()); // x86-64
    elf.extend(1u32.to_le_bytes());
    elf.extend(TEXT.to_le_bytes()); // entry point
    elf.extend((HEADER_BYTES as u64).to_le_bytes()); // program headers follow
    elf.extend(0u64.to_le_bytes()); // no section headers
    elf.extend(0u32.to_le_bytes());
    for half in [HEADER_BYTES, PROGRAM_HEADER_BYTES, 2, 64, 0, 0] {
        elf.extend((half as u16).to_le_bytes());
    }
    program_header(&mut elf, READ_EXECUTE, TEXT, text.len(), text.len());
    program_header(&mut elf, READ_WRITE, DATA, 0, PAGE_BYTES);
    elf.resize(PAGE_BYTES, 0);
    elf.extend(text);
    elf
}

fn program_header(elf: &mut Vec<u8>, flags: u32, address: u64, file_bytes: usize, memory_bytes: usize) {
    elf.extend(1u32.to_le_bytes()); // PT_LOAD
    elf.extend(flags.to_le_bytes());
    for word in
        [PAGE_BYTES as u64, address, address, file_bytes as u64, memory_bytes as u64, PAGE_BYTES as u64]
    {
        elf.extend(word.to_le_bytes());
    }
}

/// Instructions that keep an image from being admitted, as (mnemonic, encoding). They run untrapped, read something from
/// outside the machine, touch state that the CPU digest leaves out, or differ from platform to platform.
pub const FORBIDDEN: &[(&str, &[u8])] = &[
    // Clocks, counters, randomness, the processor's identity.
    ("rdtsc", &[0x0f, 0x31]),
    ("rdtscp", &[0x0f, 0x01, 0xf9]),
    ("rdpmc", &[0x0f, 0x33]),
    ("cpuid", &[0x0f, 0xa2]),
    ("rdrand", &[0x48, 0x0f, 0xc7, 0xf0]),
    ("rdseed", &[0x48, 0x0f, 0xc7, 0xf8]),
    ("rdpid", &[0xf3, 0x0f, 0xc7, 0xf8]),
    ("rdpru", &[0x0f, 0x01, 0xfd]),
    // Extended state.
    ("xgetbv", &[0x0f, 0x01, 0xd0]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("xsave", &[0x0f, 0xae, 0x20]),
    ("xsave64", &[0x48, 0x0f, 0xae, 0x20]),
    ("xrstor", &[0x0f, 0xae, 0x28]),
    ("xrstor64", &[0x48, 0x0f, 0xae, 0x28]),
    ("xsaveopt", &[0x0f, 0xae, 0x30]),
    ("xsaveopt64", &[0x48, 0x0f, 0xae, 0x30]),
    ("xsavec", &[0x0f, 0xc7, 0x20]),
    ("xsavec64", &[0x48, 0x0f, 0xc7, 0x20]),
    ("xsaves", &[0x0f, 0xc7, 0x28]),
    ("xsaves64", &[0x48, 0x0f, 0xc7, 0x28]),
    ("xrstors", &[0x0f, 0xc7, 0x18]),
    ("xrstors64", &[0x48, 0x0f, 0xc7, 0x18]),
    ("fxsave", &[0x0f, 0xae, 0x00]),
    ("fxrstor", &[0x0f, 0xae, 0x08]),
    // Segment bases, protection keys, transactions, waiting.
    ("rdfsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc0]),
    ("rdgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc8]),
    ("wrfsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd0]),
    ("wrgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd8]),
    ("rdpkru", &[0x0f, 0x01, 0xee]),
    ("wrpkru", &[0x0f, 0x01, 0xef]),
    ("xbegin", &[0xc7, 0xf8, 0x00, 0x00, 0x00, 0x00]),
    ("xend", &[0x0f, 0x01, 0xd5]),
    ("xabort", &[0xc6, 0xf8, 0x01]),
    ("xtest", &[0x0f, 0x01, 0xd6]),
    ("umonitor", &[0xf3, 0x0f, 0xae, 0xf0]),
    ("umwait", &[0xf2, 0x0f, 0xae, 0xf0]),
    ("tpause", &[0x66, 0x0f, 0xae, 0xf0]),
    // Calls to a kernel or a hypervisor.
    ("syscall", &[0x0f, 0x05]),
    ("int", &[0xcd, 0x80]),
    ("int1", &[0xf1]),
    ("sysenter", &[0x0f, 0x34]),
    ("vmcall", &[0x0f, 0x01, 0xc1]),
    ("vmmcall", &[0x0f, 0x01, 0xd9]),
    // Descriptor tables, selectors and flags: they show the host's.
    ("sgdt", &[0x0f, 0x01, 0x00]),
    ("sidt", &[0x0f, 0x01, 0x08]),
    ("sldt", &[0x0f, 0x00, 0xc0]),
    ("str", &[0x0f, 0x00, 0xc8]),
    ("smsw", &[0x0f, 0x01, 0xe0]),
    ("lar", &[0x0f, 0x02, 0xc0]),
    ("lsl", &[0x0f, 0x03, 0xc0]),
    ("verr", &[0x0f, 0x00, 0xe0]),
    ("verw", &[0x0f, 0x00, 0xe8]),
    ("mov", &[0x8c, 0xc8]),
    ("mov", &[0x8e, 0xd8]),
    ("push", &[0x0f, 0xa0]),
    ("pop", &[0x0f, 0xa1]),
    ("pushfq", &[0x9c]),
    ("popfq", &[0x9d]),
    ("iretq", &[0x48, 0xcf]),
    ("retf", &[0xcb]),
    ("call", &[0xff, 0x18]),
    ("jmp", &[0xff, 0x28]),
    // Privileged.
    ("hlt", &[0xf4]),
    ("cli", &[0xfa]),
    ("sti", &[0xfb]),
    ("in", &[0xe4, 0x40]),
    ("out", &[0xe6, 0x40]),
    ("rdmsr", &[0x0f, 0x32]),
    ("wrmsr", &[0x0f, 0x30]),
];
