//! Keeps a decoder's panic inside the decode.
//!
//! Damaged files make third-party decoders panic now and then; `decode` runs each of them through [`quietly`], which
//! turns the panic into `None` and keeps the panic message, which is about the file and not about the program, off
//! stderr. It does not help against an abort or a stack overflow: none is known in the decoders used.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside of a decoder.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `decoder`; `None` when it panicked.
///
/// The first call puts a panic hook in front of the one in place, which it calls for every panic outside of a decoder.
pub fn quietly<T>(decoder: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // `try_with`: a panic may also come while the thread's locals are being torn down.
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                previous(info);
            }
        }));
    });
    let before = INSIDE.replace(true);
    // What the closure touched is dropped with it or, like the memory budget, consistent at every step.
    let result = panic::catch_unwind(AssertUnwindSafe(decoder));
    INSIDE.set(before);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_in_none_and_the_next_call_works() {
        assert_eq!(quietly(|| -> u8 { panic!("damaged file") }), None);
        assert!(!INSIDE.get());
        assert_eq!(quietly(|| 7), Some(7));
    }
}
