use super::*;

#[test]
fn golden_numbers_of_version_1() {
    // A failure here means running guests and stored checkpoints no longer fit this build: raise ABI_VERSION.
    assert_eq!(ABI_VERSION, 1);
    assert_eq!((DOORBELL, MAILBOX, STACK_TOP, IMAGE_BASE), (0x40_0000_0000, 0x6000, 0x20_0000, 0x20_0000));
    assert_eq!((SUPERVISOR_REGION, STACK_REGION), (0x1000..0x2_0000, 0x10_0000..0x20_0000));
    assert_eq!((INPUT_BYTES_MAX, OUTPUT_BYTES_MAX, LOG_BYTES_MAX), (262_144, 262_144, 1024));
    assert_eq!(Operation::ALL.map(Operation::number), [1, 2, 3, 4, 5]);
    assert_eq!(OperationError::ALL.map(OperationError::code), [-1, -2, -3, -4]);
    use mailbox::*;
    assert_eq!([OPERATION, POINTER, LENGTH, RESULT, BOOT_INFO], [0, 8, 16, 24, 64]);
}

#[test]
fn golden_boot_info_bytes() {
    let bytes = BootInfo::new(8 << 20, 0x60_3000).encode();
    let mut expected = [0u8; 32];
    expected[0] = 1;
    expected[10] = 0x80;
    expected[16..19].copy_from_slice(&[0x00, 0x30, 0x60]);
    expected[26] = 0x80;
    assert_eq!(bytes, expected);
    assert_eq!(BootInfo::decode(&bytes), Ok(BootInfo::new(8 << 20, 0x60_3000)));
}

#[test]
fn boot_info_that_contradicts_itself_is_refused() {
    let good = BootInfo::new(8 << 20, 0x60_3000);
    let refused = |change: fn(&mut BootInfo)| {
        let mut info = good;
        change(&mut info);
        BootInfo::decode(&info.encode()).unwrap_err()
    };
    assert_eq!(refused(|i| i.abi_version = 2), BootInfoError::AbiVersion(2));
    assert_eq!(refused(|i| i.memory_bytes += 4096), BootInfoError::MemoryBytes((8 << 20) + 4096));
    assert!(matches!(refused(|i| i.heap_start += 1), BootInfoError::Heap { .. }));
    assert!(matches!(refused(|i| i.heap_start = 0), BootInfoError::Heap { .. }));
    assert!(matches!(refused(|i| i.heap_start = 9 << 20), BootInfoError::Heap { .. }));
    assert!(matches!(refused(|i| i.heap_end -= 4096), BootInfoError::Heap { .. }));
    let mut bytes = good.encode();
    bytes[4] = 1;
    assert_eq!(BootInfo::decode(&bytes), Err(BootInfoError::Reserved(1)));
}

#[test]
fn numbers_and_operations_map_one_to_one() {
    for number in [0, 6, 7, 255, u64::MAX] {
        assert_eq!(Operation::from_number(number), None);
    }
    for operation in Operation::ALL {
        assert_eq!(Operation::from_number(operation.number()), Some(operation));
    }
    for code in [0, 1, -5, i64::MIN, i64::MAX] {
        assert_eq!(OperationError::from_code(code), None);
    }
    for error in OperationError::ALL {
        assert_eq!(OperationError::from_code(error.code()), Some(error));
    }
}

#[test]
fn span_with_every_edge_value_never_wraps() {
    let edges = [0, 1, 0xfff, 0x1000, IMAGE_BASE, DOORBELL, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
    for pointer in edges {
        for length in edges {
            match Span::new(pointer, length) {
                Some(span) => assert_eq!((span.end(), span.length()), (pointer + length, length)),
                None => assert!(u128::from(pointer) + u128::from(length) > u128::from(u64::MAX)),
            }
        }
    }
}

#[test]
fn span_is_inside_only_when_both_ends_are() {
    let inside =
        |pointer, length| Span::new(pointer, length).is_some_and(|span| span.is_inside(&STACK_REGION));
    assert!(inside(0x10_0000, 0x10_0000) && inside(0x1f_ffff, 1) && inside(0, 0) && inside(u64::MAX, 0));
    assert!(!inside(0xf_ffff, 1) && !inside(0xf_ffff, 2) && !inside(0x1f_ffff, 2) && !inside(0x20_0000, 1));
}

#[test]
fn memory_sizes_outside_the_limits_are_refused() {
    for good in [8 << 20, 10 << 20, 16 << 30] {
        assert!(is_memory_size(good));
    }
    for bad in [0, 2 << 20, (8 << 20) + 4096, (16 << 30) + (2 << 20), u64::MAX] {
        assert!(!is_memory_size(bad));
    }
}
