//! Featherlight.
#[cfg(feature = "serve")]
pub mod engine;
#[cfg(feature = "serve")]
pub mod http;
pub mod image;
#[cfg(feature = "serve")]
pub mod telemetry;
