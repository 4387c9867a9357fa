//! Clients that never rest, and what became of their requests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::client::{Answer, Connection};

/// What a number of clients have met so far.
#[derive(Default)]
pub struct Load {
    /// Requests answered with 200.
    pub served: AtomicUsize,
    /// Requests refused because the service was shutting down.
    pub refused: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// Posts a photo again and again, over connections used for as long as they may be, until the port is closed or the
    /// load is over. `right` checks each answer of status 200.
    ///
    /// Panics when a request is lost while the port is open: a connection reset, or no answer.
    pub fn post(&self, address: SocketAddr, photo: &[u8], right: impl Fn(&Answer)) {
        while !self.over.load(Ordering::Relaxed) {
            let Ok(mut connection) = Connection::try_open(address) else { return };
            while !self.over.load(Ordering::Relaxed) {
                let answer = match connection.try_send("POST", "/classify", &[], photo) {
                    Ok(answer) => answer,
                    Err(error) => {
                        let late = Connection::try_open(address).is_err();
                        assert!(late, "lost while the port was open: {error}");
                        return;
                    }
                };
                if answer.status == 200 {
                    right(&answer);
                    self.served.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(answer.row(), (503, "shutting_down".to_owned()));
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                if answer.header("connection") == Some("close") {
                    break;
                }
            }
        }
    }

    /// Lets the clients go.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Lets the clients go when dropped: a test that fails must not wait for them for ever.
    pub fn ends_here(&self) -> EndsHere<'_> {
        EndsHere(self)
    }
}

/// See [`Load::ends_here`].
pub struct EndsHere<'a>(&'a Load);

impl Drop for EndsHere<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
