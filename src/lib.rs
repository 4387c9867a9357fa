//! Featherlight fine-tunes vision transformers with LoRA on a folder of photos, merges the result and serves it over HTTP.
//!
//! The map, in the order a photo travels: [`image`] turns bytes into pixels, [`ops`] holds the kernels, [`nn`] the layers
//! built on them, [`model`] the architectures and the files they are read from. With feature `serve`, `engine` queues photos and
//! batches them for a device, `http` speaks to clients, `telemetry` counts. [`randomness`] is where every random number comes
//! from. Dependency runs one way: image, ops ← nn ← model ← engine ← http.

#[cfg(feature = "serve")]
pub mod engine;
#[cfg(feature = "serve")]
pub mod http;
pub mod image;
pub mod model;
pub mod nn;
pub mod ops;
pub mod randomness;
#[cfg(feature = "serve")]
pub mod telemetry;
