//! Ctrl-C, and the signal that `timeout` and a supervisor send: the measurement ends, its figures do not get lost.

use tokio::sync::watch;

/// Whether the person who started the program has had enough.
#[derive(Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on; the signals then end nothing by themselves.
    ///
    /// # Errors
    /// If the system lets nobody listen.
    pub fn listen() -> std::io::Result<Self> {
        let (sender, receiver) = watch::channel(false);
        #[cfg(unix)]
        let mut signals = {
            use tokio::signal::unix::{SignalKind, signal};
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        tokio::spawn(async move {
            #[cfg(unix)]
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
            }
            #[cfg(not(unix))]
            if tokio::signal::ctrl_c().await.is_err() {
                return std::future::pending().await;
            }
            sender.send_replace(true);
        });
        Ok(Self(receiver))
    }

    /// Whether it has come.
    pub fn came(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it comes.
    pub async fn wait(&self) {
        if self.0.clone().wait_for(|came| *came).await.is_err() {
            std::future::pending().await
        }
    }
}
