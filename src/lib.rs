//! Featherlight.
pub mod image;
pub mod randomness;
