//! Featherlight.
#[cfg(feature = "serve")]
pub mod engine;
pub mod image;
