//! Featherlight.
pub mod image;
