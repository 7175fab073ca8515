use super::*;

/// Offsets as Intel processors have them, and as AMD processors with AVX-512 and PKRU do.
fn layouts() -> [ExtendedLayout; 2] {
    let places = |offsets: [usize; 5]| {
        let lengths = COMPONENTS.map(|(_, range)| range.len());
        ExtendedLayout { places: std::array::from_fn(|i| Some(offsets[i]..offsets[i] + lengths[i])) }
    };
    [places([576, 1088, 1152, 1664, 2688]), places([576, 832, 896, 1408, 2432])]
}

fn busy() -> ExtendedState {
    let mut state = ExtendedState::initial();
    for (index, byte) in state.0.iter_mut().enumerate() {
        *byte = (index * 5 + 1) as u8;
    }
    state.0[MXCSR].copy_from_slice(&0x1fbfu32.to_le_bytes());
    let tails = (0..8).map(|register| 42 + register * 16..48 + register * 16);
    for range in RESERVED.into_iter().chain(tails) {
        state.0[range].fill(0);
    }
    state.check().unwrap();
    state
}

#[test]
fn state_is_the_same_whatever_layout_the_processor_has() {
    for state in [ExtendedState::initial(), busy()] {
        for layout in layouts() {
            let area = layout.area(&state).unwrap();
            assert_eq!(layout.canonical(&area), Ok(state.clone()));
        }
    }
    let [intel, amd] = layouts().map(|layout| layout.area(&busy()).unwrap());
    assert_ne!(intel, amd);
}

#[test]
fn components_not_saved_are_initial_whatever_the_area_holds() {
    let layout = &layouts()[0];
    let mut area = Box::new([0xa5; KVM_AREA_BYTES]);
    area[STATE_BV].fill(0);
    area[COMPACTION].fill(0);
    assert_eq!(layout.canonical(&area), Ok(ExtendedState::initial()));
    // Only AVX saved: the upper halves and MXCSR count, nothing else.
    area[STATE_BV.start] = 4;
    area[MXCSR].copy_from_slice(&0x1fa0u32.to_le_bytes());
    let state = layout.canonical(&area).unwrap();
    assert_eq!(state.mxcsr(), 0x1fa0);
    assert!(state.0[576..832].iter().all(|&byte| byte == 0xa5));
    assert!(state.0[160..416].iter().chain(&state.0[1088..]).all(|&byte| byte == 0));
}

#[test]
fn unused_bytes_of_the_area_are_not_part_of_the_state() {
    let layout = &layouts()[0];
    let mut area = layout.area(&busy()).unwrap();
    for place in [28..32, 42..48, 154..160, 416..512, 832..1088] {
        area[place].fill(0xff);
    }
    assert_eq!(layout.canonical(&area), Ok(busy()));
}

#[test]
fn unknown_compacted_and_missing_components_are_refused() {
    let layout = &layouts()[0];
    let mut area = layout.area(&busy()).unwrap();
    area[STATE_BV.start + 2] = 2;
    assert_eq!(layout.canonical(&area), Err(ExtendedError::UnknownComponents(0x2_02e7)));
    let mut area = layout.area(&busy()).unwrap();
    area[COMPACTION.end - 1] = 0x80;
    assert_eq!(layout.canonical(&area), Err(ExtendedError::Compacted));
    let mut without = layout.clone();
    without.places[3] = None;
    assert_eq!(without.area(&busy()), Err(ExtendedError::Missing(7)));
    assert!(without.area(&ExtendedState::initial()).is_ok(), "an initial component need not exist");
}

#[test]
fn reserved_bytes_and_bits_are_refused() {
    let state = busy();
    for at in [5, 28, 31, 42, 47, 159, 416, 575, 832, 1087] {
        let mut other = state.clone();
        other.0[at] = 1;
        let error = other.check().unwrap_err();
        assert!(matches!(error, CpuStateError::RegisterRefused { id: "xsave-reserved", value: 1 }), "{at}");
    }
    let mut other = state;
    other.0[26] = 1;
    assert!(matches!(other.check(), Err(CpuStateError::RegisterRefused { id: "mxcsr", .. })));
}
