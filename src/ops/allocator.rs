//! What the C library does with memory that was freed.
//!
//! A forward pass takes and frees the same buffers again and again: 19 MB for one hidden layer of BEiT-base at batch 8. glibc hands
//! blocks of that size back to the system at once, and each comes anew as thousands of pages that the system clears one by one: a tenth
//! of the time of a pass, and more on threads other than the first.

/// Free memory at the end of the heap that is kept, in bytes: more than the buffers of one pass of a large model.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 1 << 30;

/// Keeps memory that was freed in the process, for the next pass; beyond 1 GiB of it the end of the heap goes back to the system.
/// For the whole process, so it is a program's first step and nothing that a library does by itself. No effect where the C library
/// is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and may be called at any time, from any thread; it takes its own lock.
    unsafe {
        // A setting that is refused leaves the usual one. One heap for all threads: those of further threads come in pieces of
        // 64 MB, which go back to the system whole.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Gives back to the system what was freed and kept: after work that will not come again soon. Takes milliseconds.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a number and may be called at any time, from any thread; it takes the heaps' own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
