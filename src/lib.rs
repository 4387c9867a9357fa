//! Featherlight fine-tunes vision transformers with LoRA on a folder of photos, merges the result and serves it over HTTP.
//!
//! The map, in the order a photo travels: [`image`] turns bytes into pixels, [`ops`] holds the kernels, [`nn`] the layers
//! built on them, [`model`] the architectures and the files they are read from, [`scores`] turns logits into labels. With feature
//! `serve`, `engine` queues photos and batches them for a device, `http` speaks to clients, `predict` makes a CSV of a folder,
//! `telemetry` counts. With feature `pull`, `pull` brings model folders from the Hugging Face hub. [`randomness`] is where every random number comes from. Dependency runs one way:
//! image, ops ← nn ← model ← engine ← http, predict; model ← pull.

#[cfg(feature = "serve")]
pub mod engine;
#[cfg(feature = "serve")]
pub mod http;
pub mod image;
pub mod model;
pub mod nn;
pub mod ops;
#[cfg(feature = "serve")]
pub mod predict;
#[cfg(feature = "pull")]
pub mod pull;
pub mod randomness;
pub mod scores;
#[cfg(feature = "serve")]
pub mod telemetry;
