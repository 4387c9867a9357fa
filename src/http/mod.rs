//! The HTTP service: requests in, JSON out.
//!
//! `main` builds a [`Service`] around a running engine and hands it to [`serve`] with its sockets and a shutdown signal;
//! tests do the same with sockets and signals of their own. One file a resource; statuses stand in `error.rs`. Nothing
//! here ever sees a tensor or opens a file.

mod access;
mod aside;
mod auth;
mod base64_text;
mod body;
mod budget;
mod classify;
mod composed;
mod cors;
mod docs;
mod error;
mod health;
mod hugging_face;
mod info;
mod json;
mod lingering;
mod metrics;
mod models;
mod multipart;
mod observe;
mod open_inference;
mod openapi;
mod page;
mod parameters;
mod registry;
mod remote_photo;
mod router;
mod security;
mod segments;
mod server;
mod settings;
mod state;
mod strict;
mod submission;
mod trace;

pub use auth::check_key;
pub use cors::{Origin, OriginError};
pub use registry::{ModelInfo, ModelSource, Served};
pub use remote_photo::{Addresses, PublicAddresses, UrlInput};
pub use server::{Listeners, serve};
pub use settings::{MOST_PHOTOS_PER_REQUEST, ServeSettings};
pub use state::Service;
