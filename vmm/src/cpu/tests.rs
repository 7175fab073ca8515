use proptest::prelude::*;

use super::*;

/// Changes one thing.
type Change = dyn Fn(&mut CpuState);

const ENTRY: u64 = 0x20_0040;

/// A state in which no two general registers and no two extended bytes near each other are equal.
fn busy() -> CpuState {
    let mut state = CpuState::initial(ENTRY);
    state.general = std::array::from_fn(|index| 0x0101_0101_0101_0101 * (index as u64 + 1));
    state.rip = 0x21_2345;
    state.rflags = 0x24_4ed7;
    let mut bytes = *state.extended.as_bytes();
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (index * 7 + 3) as u8;
    }
    bytes[24..28].copy_from_slice(&0x9f80u32.to_le_bytes());
    let tails = (0..8).map(|register| 42 + register * 16..48 + register * 16);
    for range in [5..6, 28..32, 416..576, 832..1088].into_iter().chain(tails) {
        bytes[range].fill(0);
    }
    state.extended = ExtendedState::decode(&bytes).unwrap();
    state
}

#[test]
fn golden_digests_of_cpu_v1() {
    // A failure here means stored checkpoints and certificates no longer match this build: raise the tag.
    let digests = [CpuState::initial(ENTRY), busy()].map(|state| state.digest().to_string());
    let golden = [
        "2b63d6de0d29fda363cce2dbc716eaae3057acf3cb7c61311ec2f06b28235371",
        "d0177ce2e0f5d97aab5ba927a2ce5b912e07211899fac6dba513d3b6f577700d",
    ];
    assert_eq!(digests, golden);
}

#[test]
fn golden_offsets_of_cpu_v1() {
    let bytes = busy().encode();
    assert_eq!((bytes.len(), &bytes[..8]), (3115, &b"cpu-v1\0\0"[..]));
    let word = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    assert_eq!(word(8), 0x0101_0101_0101_0101);
    assert_eq!(word(8 + 8 * RSP), 0x0808_0808_0808_0808);
    assert_eq!([word(136), word(144)], [0x21_2345, 0x24_4ed7]);
    assert_eq!(
        [word(152), word(160), word(168), word(176), word(184), word(192)],
        [CR0, 0, 0x1000, CR4, 0, EFER]
    );
    assert_eq!([word(200), word(208), word(216), word(224)], [0x8000, 0x37, 0x9000, 0xfff]);
    assert_eq!(word(264), DR7);
    assert_eq!(bytes[272..293], [0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0x33, 0, 11, 1, 3, 0, 1, 1, 1]);
    assert_eq!(bytes[398..419], [0, 0xa0, 0, 0, 0, 0, 0, 0, 0x67, 0, 0, 0, 0x18, 0, 11, 1, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[419..], busy().extended.as_bytes()[..]);
}

#[test]
fn every_bit_of_the_encoding_changes_the_digest_or_is_refused() {
    let state = busy();
    let (bytes, digest) = (state.encode(), state.digest());
    let mut refused = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match CpuState::decode(&flipped) {
            Ok(other) => assert_ne!(other.digest(), digest, "bit {bit}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 64, "system registers must be refused");
}

#[test]
fn every_field_changes_the_digest() {
    let base = busy();
    let mut changes: Vec<Box<Change>> = vec![
        Box::new(|s| s.rip ^= 1),
        Box::new(|s| s.rflags ^= 1),
        Box::new(|s| s.cr0 ^= 1),
        Box::new(|s| s.cr2 ^= 1),
        Box::new(|s| s.cr3 ^= 1),
        Box::new(|s| s.cr4 ^= 1),
        Box::new(|s| s.cr8 ^= 1),
        Box::new(|s| s.efer ^= 1),
        Box::new(|s| s.gdt.base ^= 1),
        Box::new(|s| s.gdt.limit ^= 1),
        Box::new(|s| s.idt.base ^= 1),
        Box::new(|s| s.idt.limit ^= 1),
    ];
    for index in 0..16 {
        changes.push(Box::new(move |s| s.general[index] ^= 1 << 63));
    }
    for index in 0..5 {
        changes.push(Box::new(move |s| s.debug[index] ^= 1));
    }
    for index in 0..7 {
        let fields: [fn(&mut SegmentRegister); 10] = [
            |s| s.base ^= 1,
            |s| s.limit ^= 1,
            |s| s.selector ^= 1,
            |s| s.kind ^= 1,
            |s| s.present ^= 1,
            |s| s.dpl ^= 1,
            |s| s.db ^= 1,
            |s| s.s ^= 1,
            |s| s.l ^= 1,
            |s| s.g ^= 1,
        ];
        for field in fields {
            changes.push(Box::new(move |s| field(&mut s.segments[index])));
        }
    }
    let mut digests = vec![base.digest()];
    for change in &changes {
        let mut state = base.clone();
        change(&mut state);
        digests.push(state.digest());
    }
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count, "two states have one digest");
}

#[test]
fn system_registers_of_a_stranger_are_refused() {
    let changes: [(&str, &Change); 15] = [
        ("rip", &|s| s.rip = 1 << 47),
        ("cr0", &|s| s.cr0 &= !(1 << 16)),
        ("cr2", &|s| s.cr2 = 1),
        ("cr3", &|s| s.cr3 = 0x20_0000),
        ("cr4", &|s| s.cr4 &= !4),
        ("cr8", &|s| s.cr8 = 1),
        ("efer", &|s| s.efer |= 1),
        ("gdt", &|s| s.gdt.base = 0x40_0000),
        ("idt", &|s| s.idt.limit = 0),
        ("dr0", &|s| s.debug[0] = 0x20_0000),
        ("dr7", &|s| s.debug[4] = 0x401),
        ("rflags", &|s| s.rflags |= 0x3000),
        ("rflags", &|s| s.rflags &= !0x200),
        ("cs", &|s| s.segments[0].dpl = 0),
        ("tr", &|s| s.segments[6].base = 0x40_0000),
    ];
    for (want, change) in changes {
        let mut state = busy();
        change(&mut state);
        match CpuState::decode(&state.encode()) {
            Err(error @ CpuStateError::RegisterRefused { id, .. }) => {
                assert_eq!((id, error.kind()), (want, "RegisterRefused"));
            }
            other => panic!("{want}: {other:?}"),
        }
    }
}

#[test]
fn malformed_encodings_are_refused_at_every_length() {
    let bytes = busy().encode();
    for length in (0..bytes.len()).chain([bytes.len() + 1]) {
        let mut cut = bytes.clone();
        cut.resize(length, 0);
        assert_eq!(CpuState::decode(&cut), Err(CpuStateError::Length { got: length }));
    }
    let mut other = bytes;
    other[5] = b'2';
    assert_eq!(CpuState::decode(&other), Err(CpuStateError::Tag));
}

proptest! {
    #[test]
    fn decoder_survives_any_bytes_and_is_strict(bytes in proptest::collection::vec(any::<u8>(), CpuState::BYTES)) {
        prop_assert!(CpuState::decode(&bytes).is_err());
        let mut tagged = bytes;
        tagged[..8].copy_from_slice(TAG);
        if let Ok(state) = CpuState::decode(&tagged) {
            prop_assert_eq!(state.encode(), tagged);
        }
    }

    #[test]
    fn guest_registers_round_trip(general in any::<[u64; 16]>(), rip in any::<u64>(), flags in any::<u64>()) {
        let mut state = busy();
        (state.general, state.rip) = (general, rip >> 17);
        state.rflags = (flags & 0x24_4cd5) | RFLAGS;
        prop_assert_eq!(CpuState::decode(&state.encode()), Ok(state));
    }
}
