//! The test programs. Position-independent; the worker's text is a prefix of the probe's.

use std::arch::global_asm;

/// First byte of an input.
pub(crate) mod command {
    macro_rules! commands {
        ($($name:ident = $number:literal,)*) => { $(pub(crate) const $name: u8 = $number;)* };
    }
    commands! {
        // The worker's.
        WORK = 0, RING = 1, YIELD = 2, UD2 = 3, DIVIDE = 4, WRITE_TEXT = 5, WRITE_NULL = 6, RUN_DATA = 7,
        OVERFLOW = 8, READ_TABLES = 9, SPIN = 10, NONCANONICAL = 11, SIMD = 12, STORE4 = 13, LOAD8 = 14,
        STORE_BESIDE = 15, UNALIGNED_CHECK = 16, SMALL_RECV = 17, FILL = 18, WRITE_GUARD = 19, CHATTER = 20,
        // What admission refuses.
        RDTSC = 21, RDTSCP = 22, CPUID = 23, RDPMC = 24, HLT = 25, INT3 = 26, INT80 = 27, SYSCALL = 28, SGDT = 29,
        PORT_IN = 30, RDMSR = 31, MOV_CR = 32, STORE16 = 33, STORE32 = 34, XADD = 35, RUN_DOORBELL = 36,
        X87_STORE = 37, REP_STORE = 38, CLI = 39, AVX512 = 40,
    }
}

// SAFETY: the assembly below defines these symbols; only their addresses are taken.
unsafe extern "C" {
    static quorate_test_worker: u8;
    static quorate_test_worker_end: u8;
    static quorate_test_probe_end: u8;
}

fn text(end: *const u8) -> &'static [u8] {
    let start = &raw const quorate_test_worker;
    // SAFETY: both symbols are defined by the assembly below, in this order and in one read-only section.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

pub(super) fn worker_text() -> &'static [u8] {
    text(&raw const quorate_test_worker_end)
}

pub(super) fn probe_text() -> &'static [u8] {
    text(&raw const quorate_test_probe_end)
}

// Registers: rbx mailbox, r15 doorbell, r14 data. Data: +0 input (0x1000), +0x1000 output, +0x2000 table.
global_asm!(
    r#"
    .pushsection .rodata.quorate_test, "a"
    .balign 64
    .globl quorate_test_worker
quorate_test_worker:
    mov ebx, 0x6000
    movabs r15, 0x4000000000
    mov r14d, 0x400000
0:  mov qword ptr [rbx], 1
    mov [rbx + 8], r14
    mov qword ptr [rbx + 16], 0x1000
    mov eax, 1
    mov [r15], rax
    cmp qword ptr [rbx + 24], 0
    jle 90f
    movzx ecx, byte ptr [r14]

    cmp ecx, 0
    jne 1f
    # WORK: xorshift over the table, AVX over 64 lanes, x87 and SSE on the way; the output is 64 bytes.
    mov rsi, [r14 + 8]
    mov rdi, [r14 + 16]
    or rsi, 1
    vcvtsi2sd xmm0, xmm0, rsi
    vbroadcastsd ymm1, xmm0
    vpxor xmm2, xmm2, xmm2
    vpcmpeqd ymm3, ymm3, ymm3
    vpsrlq ymm3, ymm3, 12
    vcvtdq2pd ymm4, xmm3
    fninit
    fldpi
2:  mov rax, rsi
    shl rax, 13
    xor rsi, rax
    mov rax, rsi
    shr rax, 7
    xor rsi, rax
    mov rax, rsi
    shl rax, 17
    xor rsi, rax
    mov rax, rsi
    shr rax, 20
    and eax, 0x1ff
    xor [r14 + rax * 8 + 0x2000], rsi
    vcvtsi2sd xmm5, xmm5, rsi
    vbroadcastsd ymm5, xmm5
    vmulpd ymm1, ymm1, ymm4
    vaddpd ymm1, ymm1, ymm5
    vsqrtpd ymm6, ymm5
    vaddpd ymm2, ymm2, ymm6
    vdivpd ymm7, ymm2, ymm1
    vxorpd ymm2, ymm2, ymm7
    fld st(0)
    fsqrt
    faddp st(1), st
    dec rdi
    jg 2b
    vmovupd [r14 + 0x1000], ymm1
    vmovupd [r14 + 0x1020], ymm2
    fst qword ptr [r14 + 0x1018]
    mov rdx, 64
    jmp 80f

1:  cmp ecx, 1
    jne 1f
    # RING: any value and any words; the output is what word 1 and the result became.
    mov rax, [r14 + 8]
    mov rdx, [r14 + 16]
    mov [rbx], rdx
    mov rdx, [r14 + 24]
    mov [rbx + 8], rdx
    mov rdx, [r14 + 32]
    mov [rbx + 16], rdx
    mov qword ptr [rbx + 24], 0x7777
    mov [r15], rax
    mov rdx, [rbx + 24]
    mov [r14 + 0x1000], rdx
    mov rdx, [rbx + 8]
    mov [r14 + 0x1008], rdx
    mov rdx, 16
    jmp 80f

1:  cmp ecx, 2
    jne 1f
    mov qword ptr [rbx], 4
    mov eax, 4
    mov [r15], rax
    jmp 0b
1:  cmp ecx, 3
    jne 1f
    ud2
1:  cmp ecx, 4
    jne 1f
    xor edx, edx
    xor eax, eax
    xor esi, esi
    div rsi
1:  cmp ecx, 5
    jne 1f
    mov eax, 0x200000
    mov [rax], rax
1:  cmp ecx, 6
    jne 1f
    xor eax, eax
    mov byte ptr [rax + 16], 1
1:  cmp ecx, 7
    jne 1f
    jmp r14
1:  cmp ecx, 8
    jne 1f
3:  push rax
    jmp 3b
1:  cmp ecx, 9
    jne 1f
    mov eax, 0x1000
    mov rax, [rax]
1:  cmp ecx, 10
    jne 1f
4:  jmp 4b
1:  cmp ecx, 11
    jne 1f
    movabs rax, 0x8000000000000000
    mov rax, [rax]
1:  cmp ecx, 12
    jne 1f
    # Unmasked SSE division by zero.
    mov dword ptr [r14 + 0x1000], 0
    ldmxcsr [r14 + 0x1000]
    vpxor xmm0, xmm0, xmm0
    mov eax, 1
    vcvtsi2sd xmm1, xmm0, eax
    vdivsd xmm1, xmm1, xmm0
1:  cmp ecx, 13
    jne 1f
    mov dword ptr [r15], eax
1:  cmp ecx, 14
    jne 1f
    mov rax, [r15]
1:  cmp ecx, 15
    jne 1f
    mov [r15 + 8], rax
1:  cmp ecx, 16
    jne 1f
    # An aligned instruction on an unaligned address.
    vmovdqa xmm0, [r14 + 8]
1:  cmp ecx, 17
    jne 1f
    # SMALL_RECV: a receive of 4 bytes, then whatever the result was.
    mov qword ptr [rbx], 1
    lea rax, [r14 + 0x1010]
    mov [rbx + 8], rax
    mov qword ptr [rbx + 16], 4
    mov eax, 1
    mov [r15], rax
    mov rdx, [rbx + 24]
    mov [r14 + 0x1000], rdx
    mov rdx, [rbx + 8]
    mov [r14 + 0x1008], rdx
    mov rdx, 16
    jmp 80f
1:  cmp ecx, 18
    jne 1f
    # FILL: word 1 pages from the heap at word 2 on get word 3, one store each, with stride word 4.
    mov rdi, [r14 + 8]
    mov rsi, [r14 + 16]
    mov rax, [r14 + 24]
    mov rdx, [r14 + 32]
5:  mov [rsi], rax
    add rsi, rdx
    dec rdi
    jg 5b
    mov rdx, 8
    jmp 80f
1:  cmp ecx, 19
    jne 1f
    mov eax, 0xff000
    mov [rax], rax
1:  cmp ecx, 20
    jne 1f
    # CHATTER: word 1 outputs of word 2 bytes.
    mov rdi, [r14 + 8]
6:  mov qword ptr [rbx], 2
    mov [rbx + 8], r14
    mov rdx, [r14 + 16]
    mov [rbx + 16], rdx
    mov eax, 2
    mov [r15], rax
    dec rdi
    jg 6b
    jmp 0b
1:  jmp 91f

    # Sends rdx bytes at +0x1000.
80: mov qword ptr [rbx], 2
    lea rax, [r14 + 0x1000]
    mov [rbx + 8], rax
    mov [rbx + 16], rdx
    mov eax, 2
    mov [r15], rax
    jmp 0b

    # Exits with the result of the receive.
90: mov rdx, [rbx + 24]
    mov qword ptr [rbx], 5
    mov [rbx + 8], rdx
    mov eax, 5
    mov [r15], rax
91: nop
    .globl quorate_test_worker_end
quorate_test_worker_end:

    cmp ecx, 21
    jne 1f
    rdtsc
1:  cmp ecx, 22
    jne 1f
    rdtscp
1:  cmp ecx, 23
    jne 1f
    xor eax, eax
    cpuid
1:  cmp ecx, 24
    jne 1f
    xor ecx, ecx
    rdpmc
1:  cmp ecx, 25
    jne 1f
    hlt
1:  cmp ecx, 26
    jne 1f
    int3
1:  cmp ecx, 27
    jne 1f
    int 0x80
1:  cmp ecx, 28
    jne 1f
    syscall
1:  cmp ecx, 29
    jne 1f
    sgdt [r14 + 0x1000]
1:  cmp ecx, 30
    jne 1f
    in al, 0x60
1:  cmp ecx, 31
    jne 1f
    mov ecx, 0x10
    rdmsr
1:  cmp ecx, 32
    jne 1f
    mov rax, cr3
1:  cmp ecx, 33
    jne 1f
    movups [r15], xmm0
1:  cmp ecx, 34
    jne 1f
    vmovups [r15], ymm0
1:  cmp ecx, 35
    jne 1f
    lock xadd [r15], rax
1:  cmp ecx, 36
    jne 1f
    jmp r15
1:  cmp ecx, 37
    jne 1f
    fldpi
    fstp tbyte ptr [r15]
1:  cmp ecx, 38
    jne 1f
    mov qword ptr [rbx], 4
    mov eax, 4
    mov rdi, r15
    mov ecx, 3
    rep stosq
1:  cmp ecx, 39
    jne 1f
    cli
1:  cmp ecx, 40
    jne 1f
    movabs rax, 0x1122334455667788
    vpbroadcastq zmm31, rax
    vpbroadcastq zmm1, rax
    kmovw k3, eax
    mov qword ptr [rbx], 4
    mov eax, 4
    mov [r15], rax
    jmp quorate_test_worker
1:  ud2
    .globl quorate_test_probe_end
quorate_test_probe_end:
    .popsection
    "#
);
