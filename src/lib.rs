//! Featherlight.
pub mod randomness;
