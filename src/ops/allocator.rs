//! How the C library treats memory that was freed.
//!
//! A forward pass takes and frees the same buffers again and again: 19 MB for one hidden layer of BEiT-base at batch 8. glibc hands
//! blocks of that size back to the system at once, and each comes anew as thousands of pages that the system clears one by one: a tenth
//! of the time of a pass, and more on threads other than the first.

/// Free memory at the end of the heap that is kept: the buffers of one pass of a large model.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 512 << 20;

/// Keeps memory that was freed in the process, for the next pass; beyond 512 MiB of it the end of the heap goes back to the system.
/// For the whole process, so it is a program's first step and nothing that a library does by itself. No effect where the C library
/// is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and may be called at any time, from any thread; it takes its own lock.
    unsafe {
        // A setting that is refused leaves the usual one.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}
