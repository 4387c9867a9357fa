//! Model folders from the Hugging Face hub: config, processor and weights, whole, of one commit, compared with their checksums.
//!
//! `featherlight pull` calls [`Pull::run`], or [`Pull::offline`] where the network is not to be used. `hub` speaks HTTP (`address`
//! tells it who is who), `retry` knows when to ask again, `download` brings one large file and goes on where an earlier run
//! stopped, `digest` compares, `folder` is the place on disk with its `record`, `plan` decides which files a model is made of,
//! `environment` reads the hub's own variables. Nothing gets a file's own name before everything that belongs to it is there and
//! compared.

mod address;
mod digest;
mod download;
mod environment;
mod error;
mod folder;
mod hub;
mod names;
mod plan;
mod record;
mod retry;

pub use environment::{Access, Environment};
pub use error::PullError;
pub use names::{Repository, Revision};
pub use plan::{Pull, Pulled};
pub use retry::Patience;

use std::time::Duration;

/// What happens in a pull, for whoever shows it to a person.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A large file begins.
    Started {
        /// Its name.
        file: &'a str,
        /// Its size in bytes, where the hub says it.
        size: Option<u64>,
        /// Bytes of it that an earlier run left.
        have: u64,
    },
    /// So many bytes more of it have come.
    Advanced(u64),
    /// It begins again from its first byte: the server does not go on in the middle.
    Restarted,
    /// A file is compared with its checksum.
    Comparing {
        /// Its name.
        file: &'a str,
    },
    /// A file is there, new and compared.
    Brought {
        /// Its name.
        file: &'a str,
        /// Its size in bytes.
        size: u64,
    },
    /// A file was there already, the same as the hub's.
    Kept {
        /// Its name.
        file: &'a str,
    },
    /// Something failed that may pass.
    Waiting {
        /// What failed.
        reason: &'a str,
        /// The time until it is tried again.
        pause: Duration,
    },
    /// Something a person should know.
    Remark(&'a str),
}

/// Is told what happens.
pub type Observer<'a> = dyn FnMut(Event<'_>) + 'a;
