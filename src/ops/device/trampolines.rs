//! A stand-in for every function of CUDA that candle's code can call, so that the program is linked to none of CUDA's
//! libraries and starts where there are none.
//!
//! A stand-in bears the function's name and jumps to an address that it keeps. At first this is `resolve`'s, which asks
//! [`find`] for the function in its library, keeps that address instead and goes on there, all arguments as they came: the
//! stand-in needs to know nothing of them. A second thread that comes at the same moment finds the same address. Where the
//! function is missing, one takes its place that returns an error of its library.
//!
//! The names are hidden: they bind the calls of this program and are not seen by the libraries, which look for functions of
//! these names among each other.

use super::libraries::{self, Library};
use super::symbols::{for_each_function, for_each_left_out};
use std::arch::global_asm;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("feature `cuda` is for Linux on x86-64 or aarch64");

/// What a stand-in keeps, as the assembly below lays it out.
#[repr(C)]
struct Record {
    /// Where the stand-in jumps.
    target: AtomicPtr<c_void>,
    /// The function's name.
    name: *const c_char,
    /// A number of `Library::ALL`.
    library: usize,
}

/// Jumps where the record at label 2 says and leaves its address in a register that is free for such use between a call and
/// the function called.
#[cfg(target_arch = "x86_64")]
macro_rules! jump_through_record {
    () => {
        "lea r11, [rip + 2b]
         jmp qword ptr [r11]"
    };
}

/// Jumps where the record at label 2 says and leaves its address in a register that is free for such use between a call and
/// the function called.
#[cfg(target_arch = "aarch64")]
macro_rules! jump_through_record {
    () => {
        "adrp x16, 2b
         add x16, x16, :lo12:2b
         ldar x17, [x16]
         br x17"
    };
}

/// Defines stand-ins. Each has sections of its own, so that the linker drops those that nothing calls.
macro_rules! stand_ins {
    ($($library:ident: $($symbol:ident)*;)*) => { $($(
        global_asm!(
            concat!(".pushsection .data.featherlight.", stringify!($symbol), ", \"aw\", %progbits"),
            ".p2align 3",
            "2: .quad featherlight_cuda_resolve",
            ".quad 3f",
            ".quad {library}",
            concat!("3: .asciz \"", stringify!($symbol), "\""),
            ".popsection",
            concat!(".pushsection .text.featherlight.", stringify!($symbol), ", \"ax\", %progbits"),
            ".p2align 4",
            concat!(".globl ", stringify!($symbol)),
            concat!(".hidden ", stringify!($symbol)),
            concat!(".type ", stringify!($symbol), ", %function"),
            concat!(stringify!($symbol), ":"),
            jump_through_record!(),
            concat!(".size ", stringify!($symbol), ", . - ", stringify!($symbol)),
            ".popsection",
            library = const Library::$library as usize,
        );
    )*)* };
}

for_each_function!(stand_ins);

#[cfg(target_arch = "x86_64")]
macro_rules! jump_to {
    () => {
        "jmp {there}"
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! jump_to {
    () => {
        "b {there}"
    };
}

/// Defines the entries of candle's kernels for quantised weights, which this program never calls: its weights are stored
/// by its own ops. Thirty megabytes of machine code for one kind of GPU stay away with them, and the start-up code that
/// would hand them to CUDA's runtime before `main`.
macro_rules! left_out {
    ($($symbol:ident)*) => { $(
        global_asm!(
            concat!(".pushsection .text.featherlight.", stringify!($symbol), ", \"ax\", %progbits"),
            concat!(".globl ", stringify!($symbol)),
            concat!(".hidden ", stringify!($symbol)),
            concat!(".type ", stringify!($symbol), ", %function"),
            concat!(stringify!($symbol), ":"),
            jump_to!(),
            concat!(".size ", stringify!($symbol), ", . - ", stringify!($symbol)),
            ".popsection",
            there = sym stop,
        );
    )* };
}

for_each_left_out!(left_out);

/// These kernels report nothing to their caller: to go on would be to compute with what happens to lie in memory.
extern "C" fn stop() -> ! {
    eprintln!("candle's CUDA kernels for quantised weights are not part of this program");
    std::process::abort()
}

// `resolve`: every register that can hold an argument is kept while `find` runs: the integers, the vectors' lower 16 bytes
// (no function of CUDA takes wider ones), and their number, which a variadic function is told. Arguments on the stack lie
// where they lay when the function found is jumped to.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.featherlight_cuda_resolve, \"ax\", %progbits",
    ".p2align 4",
    ".globl featherlight_cuda_resolve",
    ".hidden featherlight_cuda_resolve",
    ".type featherlight_cuda_resolve, %function",
    "featherlight_cuda_resolve:",
    ".cfi_startproc",
    // After this the stack is a multiple of 16 again, as a call wants it; 64 and 128 bytes more leave it so.
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push r8",
    "push r9",
    "push rax",
    "push r10",
    "sub rsp, 128",
    "movaps [rsp], xmm0",
    "movaps [rsp + 16], xmm1",
    "movaps [rsp + 32], xmm2",
    "movaps [rsp + 48], xmm3",
    "movaps [rsp + 64], xmm4",
    "movaps [rsp + 80], xmm5",
    "movaps [rsp + 96], xmm6",
    "movaps [rsp + 112], xmm7",
    "mov rdi, r11",
    "call {find}",
    "mov r11, rax",
    "movaps xmm0, [rsp]",
    "movaps xmm1, [rsp + 16]",
    "movaps xmm2, [rsp + 32]",
    "movaps xmm3, [rsp + 48]",
    "movaps xmm4, [rsp + 64]",
    "movaps xmm5, [rsp + 80]",
    "movaps xmm6, [rsp + 96]",
    "movaps xmm7, [rsp + 112]",
    "add rsp, 128",
    "pop r10",
    "pop rax",
    "pop r9",
    "pop r8",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "jmp r11",
    ".cfi_endproc",
    ".size featherlight_cuda_resolve, . - featherlight_cuda_resolve",
    ".popsection",
    find = sym find,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text.featherlight_cuda_resolve, \"ax\", %progbits",
    ".p2align 4",
    ".globl featherlight_cuda_resolve",
    ".hidden featherlight_cuda_resolve",
    ".type featherlight_cuda_resolve, %function",
    "featherlight_cuda_resolve:",
    ".cfi_startproc",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset x30, -8",
    ".cfi_offset x29, -16",
    "mov x29, sp",
    ".cfi_def_cfa x29, 16",
    "stp x0, x1, [sp, #-16]!",
    "stp x2, x3, [sp, #-16]!",
    "stp x4, x5, [sp, #-16]!",
    "stp x6, x7, [sp, #-16]!",
    // x8: where a result that fits no register is to be written.
    "str x8, [sp, #-16]!",
    "stp q0, q1, [sp, #-32]!",
    "stp q2, q3, [sp, #-32]!",
    "stp q4, q5, [sp, #-32]!",
    "stp q6, q7, [sp, #-32]!",
    "mov x0, x16",
    "bl {find}",
    "mov x16, x0",
    "ldp q6, q7, [sp], #32",
    "ldp q4, q5, [sp], #32",
    "ldp q2, q3, [sp], #32",
    "ldp q0, q1, [sp], #32",
    "ldr x8, [sp], #16",
    "ldp x6, x7, [sp], #16",
    "ldp x4, x5, [sp], #16",
    "ldp x2, x3, [sp], #16",
    "ldp x0, x1, [sp], #16",
    "ldp x29, x30, [sp], #16",
    ".cfi_def_cfa sp, 0",
    ".cfi_restore x29",
    ".cfi_restore x30",
    "br x16",
    ".cfi_endproc",
    ".size featherlight_cuda_resolve, . - featherlight_cuda_resolve",
    ".popsection",
    find = sym find,
);

/// Finds the function of a stand-in, keeps its address in the record and returns it.
extern "C" fn find(record: &Record) -> *const c_void {
    let library = Library::ALL[record.library];
    // SAFETY: the assembly above wrote the address of a text that ends in a zero and lives as long as the program.
    let name = unsafe { CStr::from_ptr(record.name) };
    let function =
        libraries::function(library, name).unwrap_or_else(|| in_place_of(library, name).cast_mut());
    // Another thread that jumps there must see what loading the library wrote.
    record.target.store(function, Ordering::Release);
    function
}

/// These return a text, where all others return a status.
const RETURN_A_TEXT: [&CStr; 5] = [
    c"cublasGetStatusName",
    c"cublasGetStatusString",
    c"cublasLtGetStatusName",
    c"cublasLtGetStatusString",
    c"nvrtcGetErrorString",
];

/// What is called for a function that is missing: it returns an error that the library has a number for. Integer and pointer
/// results share a register, and no caller minds arguments that are not looked at.
fn in_place_of(library: Library, name: &CStr) -> *const c_void {
    extern "C" fn text() -> *const c_char {
        c"a library of CUDA is missing".as_ptr()
    }
    /// CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND; the runtime's number is the same.
    extern "C" fn symbol_not_found() -> usize {
        302
    }
    /// CUBLAS_STATUS_NOT_INITIALIZED, of cuBLASLt too.
    extern "C" fn cublas_not_initialized() -> usize {
        1
    }
    /// CURAND_STATUS_INITIALIZATION_FAILED
    extern "C" fn curand_initialization_failed() -> usize {
        203
    }
    /// NVRTC_ERROR_INTERNAL_ERROR
    extern "C" fn nvrtc_internal_error() -> usize {
        11
    }
    if RETURN_A_TEXT.contains(&name) {
        return text as *const c_void;
    }
    match library {
        Library::Driver | Library::Runtime => symbol_not_found as *const c_void,
        Library::Cublas | Library::CublasLt => cublas_not_initialized as *const c_void,
        Library::Curand => curand_initialization_failed as *const c_void,
        Library::Nvrtc => nvrtc_internal_error as *const c_void,
    }
}

unsafe extern "C" {
    /// A stand-in, for its address.
    #[link_name = "cuInit"]
    fn a_stand_in();
}

/// Brings the stand-ins into every program's link, whichever linker it is and whatever the program calls: linkers take from a
/// library only what is asked for, and this is always asked for.
#[used]
static IN_EVERY_LINK: unsafe extern "C" fn() = a_stand_in;

#[cfg(test)]
mod tests;
