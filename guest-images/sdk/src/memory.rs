//! Copy, fill and compare, under names of our own so that the host can test them; `runtime` exports them as `memcpy` & co.
//!
//! Short ranges use overlapping moves of one width, middle ones a loop of 16-byte moves, long ones the string
//! instructions, which the processor performs a cache line at a time. Loops are assembly: the compiler would recognise a
//! Rust loop that copies and call `memcpy`, that is, itself.

use core::arch::asm;
use core::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8, _mm_storeu_si128,
};

/// The 16-byte move in the encoding the rest of the program uses: mixing the two costs time on some processors.
#[cfg(target_feature = "avx")]
macro_rules! movdqu {
    ($operands:literal) => {
        concat!("vmovdqu ", $operands)
    };
}
#[cfg(not(target_feature = "avx"))]
macro_rules! movdqu {
    ($operands:literal) => {
        concat!("movdqu ", $operands)
    };
}

/// From here on the string instructions win over their start-up cost.
const STRING_BYTES_MIN: usize = 512;

/// Moves a range of at most 32 bytes; all loads come before the first store, so the ranges may overlap.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `length` bytes.
#[inline(always)]
unsafe fn move_short(target: *mut u8, source: *const u8, length: usize) {
    // SAFETY: each access is at an offset of at most `length - width`; the caller promises the ranges.
    unsafe {
        macro_rules! ends {
            ($width:ty) => {{
                let tail = length - size_of::<$width>();
                let first = source.cast::<$width>().read_unaligned();
                let last = source.add(tail).cast::<$width>().read_unaligned();
                target.cast::<$width>().write_unaligned(first);
                target.add(tail).cast::<$width>().write_unaligned(last);
            }};
        }
        match length {
            0 => {}
            1 => target.write(source.read()),
            2..4 => ends!(u16),
            4..8 => ends!(u32),
            8..16 => ends!(u64),
            _ => {
                let tail = length - 16;
                let first = _mm_loadu_si128(source.cast());
                let last = _mm_loadu_si128(source.add(tail).cast());
                _mm_storeu_si128(target.cast(), first);
                _mm_storeu_si128(target.add(tail).cast(), last);
            }
        }
    }
}

/// Copies `length` bytes between ranges that do not overlap.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `length` bytes, and they must be disjoint.
#[inline(always)]
pub unsafe fn copy(target: *mut u8, source: *const u8, length: usize) {
    // SAFETY: the caller's promise is what `copy_forward` needs.
    unsafe { copy_forward(target, source, length) }
}

/// Copies in ascending order: right for disjoint ranges and for a target below the source.
///
/// # Safety
///
/// As [`copy`], except that `target < source` may overlap.
#[inline(always)]
unsafe fn copy_forward(target: *mut u8, source: *const u8, length: usize) {
    if length <= 32 {
        // SAFETY: the caller's promise.
        return unsafe { move_short(target, source, length) };
    }
    if length >= STRING_BYTES_MIN {
        // SAFETY: moves exactly `length` bytes from `source` to `target`; the direction flag is clear in Rust code.
        return unsafe {
            asm!("rep movsb", inout("rcx") length => _, inout("rdi") target => _, inout("rsi") source => _,
                 options(nostack, preserves_flags));
        };
    }
    let whole = (length - 1) & !15;
    // SAFETY: moves 16 bytes at offsets 0, 16 .. below `whole`, which is less than `length`; the rest of 1 to 16 bytes
    // lies in both ranges, and a lower target never overwrites a source byte before it was read.
    unsafe {
        asm!("2:",
             movdqu!("{data}, [{source} + {at}]"),
             movdqu!("[{target} + {at}], {data}"),
             "add {at}, 16",
             "cmp {at}, {whole}",
             "jb 2b",
             data = out(xmm_reg) _, source = in(reg) source, target = in(reg) target, whole = in(reg) whole,
             at = inout(reg) 0usize => _, options(nostack));
        move_short(target.add(whole), source.add(whole), length - whole);
    }
}

/// Copies `length` bytes between ranges that may overlap.
///
/// # Safety
///
/// `source` must be readable and `target` writable for `length` bytes.
#[cfg_attr(not(feature = "guest"), allow(dead_code))]
pub unsafe fn copy_overlapping(target: *mut u8, source: *const u8, length: usize) {
    // Also true where the target is below the source, because the difference then wraps.
    if (target as usize).wrapping_sub(source as usize) >= length {
        // SAFETY: disjoint, or the target is below the source.
        return unsafe { copy_forward(target, source, length) };
    }
    if length <= 32 {
        // SAFETY: the caller's promise; overlap is fine.
        return unsafe { move_short(target, source, length) };
    }
    // SAFETY: moves 16 bytes that end at offsets `length`, `length - 16` .. above 16; the target is above the source, so
    // no source byte is overwritten before it was read. Between 1 and 16 bytes are left at the front.
    unsafe {
        let left: usize;
        asm!("2:",
             movdqu!("{data}, [{source} + {left} - 16]"),
             movdqu!("[{target} + {left} - 16], {data}"),
             "sub {left}, 16",
             "cmp {left}, 16",
             "ja 2b",
             data = out(xmm_reg) _, source = in(reg) source, target = in(reg) target,
             left = inout(reg) length => left, options(nostack));
        move_short(target, source, left);
    }
}

/// Sets `length` bytes to `value`.
///
/// # Safety
///
/// `target` must be writable for `length` bytes.
#[inline(always)]
pub unsafe fn fill(target: *mut u8, value: u8, length: usize) {
    let pattern = u64::from_ne_bytes([value; 8]);
    // SAFETY: each store is at an offset of at most `length - width`; the caller promises the range.
    unsafe {
        match length {
            0 => {}
            1 => target.write(value),
            2..4 => {
                target.cast::<u16>().write_unaligned(pattern as u16);
                target.add(length - 2).cast::<u16>().write_unaligned(pattern as u16);
            }
            4..8 => {
                target.cast::<u32>().write_unaligned(pattern as u32);
                target.add(length - 4).cast::<u32>().write_unaligned(pattern as u32);
            }
            8..16 => {
                target.cast::<u64>().write_unaligned(pattern);
                target.add(length - 8).cast::<u64>().write_unaligned(pattern);
            }
            16..STRING_BYTES_MIN => fill_middle(target, _mm_set1_epi8(value.cast_signed()), length),
            _ => asm!("rep stosb", inout("rcx") length => _, inout("rdi") target => _, in("al") value,
                      options(nostack, preserves_flags)),
        }
    }
}

/// # Safety
///
/// `target` must be writable for `length` bytes, at least 16.
unsafe fn fill_middle(target: *mut u8, pattern: __m128i, length: usize) {
    let tail = length - 16;
    // SAFETY: stores 16 bytes at offsets 0, 16 .. up to `tail`, and at `tail`, which ends the range.
    unsafe {
        asm!("2:",
             movdqu!("[{target} + {at}], {pattern}"),
             "add {at}, 16",
             "cmp {at}, {tail}",
             "jbe 2b",
             pattern = in(xmm_reg) pattern, target = in(reg) target, tail = in(reg) tail,
             at = inout(reg) 0usize => _, options(nostack));
        _mm_storeu_si128(target.add(tail).cast(), pattern);
    }
}

/// Compares as `memcmp`: negative, zero or positive by the first byte that differs.
///
/// # Safety
///
/// Both pointers must be readable for `length` bytes.
#[cfg_attr(not(feature = "guest"), allow(dead_code))]
pub unsafe fn compare(left: *const u8, right: *const u8, length: usize) -> i32 {
    let mut at = 0;
    // SAFETY: every read is below `length`.
    unsafe {
        while length - at >= 16 {
            let equal =
                _mm_cmpeq_epi8(_mm_loadu_si128(left.add(at).cast()), _mm_loadu_si128(right.add(at).cast()));
            let mask = _mm_movemask_epi8(equal);
            if mask != 0xffff {
                at += mask.trailing_ones() as usize;
                return i32::from(*left.add(at)) - i32::from(*right.add(at));
            }
            at += 16;
        }
        while at < length {
            let difference = i32::from(*left.add(at)) - i32::from(*right.add(at));
            if difference != 0 {
                return difference;
            }
            at += 1;
        }
    }
    0
}
