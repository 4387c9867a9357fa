//! A client's socket with a sense of time: nobody holds a connection by doing nothing, or next to nothing.
//!
//! `connections.rs` wraps every socket before hyper gets it, and tells a [`Conversation`] when a request is being answered.
//! hyper alone has one limit, for a request's head, runs it between requests as well, and waits for ever for a client that does
//! not read. Here a head has its own time from its first byte, an idle connection its own (a short one while all
//! places are taken), and so has an answer that the client does not take. (A body's time is `body.rs`'s business: there the client can be told.)
//!
//! What hyper answers by itself, to what is no HTTP, passes here too and is given the form of every other error.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::malformed;
use crate::http::access::Peer;
use crate::http::state::Service;

/// Whose turn it is on a connection; shared by its socket and the service that answers on it.
#[derive(Debug)]
pub(super) struct Conversation(Mutex<Stage>);

#[derive(Debug)]
enum Stage {
    /// Nothing has come since.
    Idle { since: Instant },
    /// The head of a request is coming.
    Head { since: Instant },
    /// The service has the request; `begun` once it has looked at it, for which the socket may be waiting.
    Answering { begun: bool, waiting: Option<Waker> },
}

/// As long as it lives a request is being answered.
#[derive(Debug)]
pub(super) struct Answering(Arc<Conversation>);

impl Conversation {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Stage::Idle { since: Instant::now() })))
    }

    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.turn(Stage::Answering { begun: false, waiting: None });
        Answering(self.clone())
    }

    /// Whether a request was taken that the service has not looked at; the task is woken when it has.
    fn has_news(&self, context: &Context<'_>) -> bool {
        match &mut *self.lock() {
            Stage::Answering { begun: false, waiting } => {
                *waiting = Some(context.waker().clone());
                true
            }
            _ => false,
        }
    }

    /// Goes on to `stage`.
    fn turn(&self, stage: Stage) {
        let before = std::mem::replace(&mut *self.lock(), stage);
        if let Stage::Answering { waiting: Some(waker), .. } = before {
            waker.wake();
        }
    }

    /// Bytes have come: outside of a request, the first of a head.
    fn heard(&self) {
        let mut stage = self.lock();
        if let Stage::Idle { .. } = *stage {
            *stage = Stage::Head { since: Instant::now() };
        }
    }

    /// Bytes of an answer have gone: the connection is idle from here on.
    fn touch(&self) {
        let mut stage = self.lock();
        if let Stage::Idle { since } = &mut *stage {
            *since = Instant::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering {
    /// The service looks at the request.
    pub(super) fn begin(&self) {
        self.0.turn(Stage::Answering { begun: true, waiting: None });
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.turn(Stage::Idle { since: Instant::now() });
    }
}

/// See the module.
pub(super) struct Socket {
    stream: TcpStream,
    conversation: Arc<Conversation>,
    service: Service,
    peer: Peer,
    /// Whether all places of the port are taken.
    full: Arc<AtomicBool>,
    reading: Pin<Box<Sleep>>,
    writing: Pin<Box<Sleep>>,
    /// Whether bytes are waiting that the client does not take.
    blocked: bool,
    /// Whether the client has had its time: from here on nothing is read.
    over: bool,
    own_answer: Option<OwnAnswer>,
}

/// Written in place of what hyper says of a malformed request.
struct OwnAnswer {
    bytes: Vec<u8>,
    written: usize,
    /// The length of what hyper believes to have written.
    instead_of: usize,
    lingering: bool,
}

/// After the answer to a malformed request: the client may still be writing, and closing on it would take the answer away.
const LINGER: Duration = Duration::from_secs(1);

/// How long a connection may be idle while all places are taken: it must not keep others out.
const CROWDED: Duration = Duration::from_secs(1);

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        conversation: Arc<Conversation>,
        service: Service,
        peer: Peer,
        full: Arc<AtomicBool>,
    ) -> Self {
        let sleep = || Box::pin(tokio::time::sleep(Duration::ZERO));
        let (reading, writing) = (sleep(), sleep());
        Self {
            stream,
            conversation,
            service,
            peer,
            full,
            reading,
            writing,
            blocked: false,
            over: false,
            own_answer: None,
        }
    }

    /// What the client has had all its time for, if anything; otherwise the task is woken when it has.
    fn expired(&mut self, context: &mut Context<'_>) -> Option<&'static str> {
        if self.blocked || self.over {
            return None;
        }
        let settings = self.service.settings();
        loop {
            let (deadline, look, waiting) = match *self.conversation.lock() {
                Stage::Idle { since } => {
                    let crowded = self.full.load(Ordering::Relaxed);
                    let time =
                        if crowded { CROWDED.min(settings.idle_timeout) } else { settings.idle_timeout };
                    // Looks again and again whether it has become crowded.
                    let beats = since.elapsed().as_millis() / CROWDED.as_millis() + 1;
                    let beat = CROWDED.saturating_mul(u32::try_from(beats).unwrap_or(u32::MAX));
                    (since + time, since + time.min(beat), "idle")
                }
                Stage::Head { since } => {
                    let deadline = since + settings.header_timeout;
                    (deadline, deadline, "header")
                }
                Stage::Answering { .. } => return None,
            };
            if self.reading.deadline() != look {
                self.reading.as_mut().reset(look);
            }
            match self.reading.as_mut().poll(context) {
                Poll::Pending => return None,
                Poll::Ready(()) if look == deadline => return Some(waiting),
                Poll::Ready(()) => {}
            }
        }
    }

    fn give_up(&mut self, waiting: &str) {
        self.over = true;
        let Peer(client) = self.peer;
        tracing::debug!(%client, waiting, "a connection is closed: the client took too long");
        self.service.metrics().timeouts.with_label_values(&[waiting]).inc();
    }

    fn write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let [bare] = slices
            && self.own_answer.is_none()
            && malformed::is_bare(bare)
        {
            let bytes = malformed::answer(&self.service, self.peer, bare);
            self.own_answer = Some(OwnAnswer { bytes, written: 0, instead_of: bare.len(), lingering: false });
        }
        if let Some(own) = self.own_answer.as_ref().filter(|own| !own.rest().is_empty()) {
            let instead_of = own.instead_of;
            ready!(self.write_own_answer(context))?;
            return Poll::Ready(Ok(instead_of));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(written, context)
    }

    fn write_own_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(own) = self.own_answer.as_ref().filter(|own| !own.rest().is_empty()) {
            let written = Pin::new(&mut self.stream).poll_write(context, own.rest());
            let written = ready!(self.timed(written, context))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(own) = &mut self.own_answer {
                own.written += written;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The outcome of a write, or the end of the client's time to take an answer. That runs from the first write that found
    /// no room to the flush that says all is gone: a client that takes a byte now and then gains nothing.
    fn timed(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if !self.blocked {
            if written.is_ready() {
                self.conversation.touch();
                return written;
            }
            self.blocked = true;
            self.writing.as_mut().reset(Instant::now() + self.service.settings().write_timeout);
        }
        if self.writing.as_mut().poll(context).is_ready() {
            self.give_up("write");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    /// Reads and throws away what the client still sends, until it ends or has had its time.
    fn read_on(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut waste = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            // A client that never pauses has no longer.
            if self.reading.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
        }
        self.reading.as_mut().poll(context)
    }
}

impl OwnAnswer {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.written..]
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => {
                if let Some(waiting) = self.expired(context) {
                    self.give_up(waiting);
                }
                // Nothing read is the end: hyper then closes in good order.
                if self.over { Poll::Ready(Ok(())) } else { Poll::Pending }
            }
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.conversation.heard();
                Poll::Ready(Ok(()))
            }
            // A client that sends its request and leaves at once: hyper would drop the request with the connection before
            // the service has seen it, and nobody would have counted it.
            Poll::Ready(_) if self.conversation.has_news(context) => Poll::Pending,
            ended => ended,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.blocked = false;
        // hyper may have looked for the next request before this one was answered, and will not look again until something
        // comes: the time of a client from which nothing comes begins here.
        if let Some(waiting) = self.expired(context) {
            self.give_up(waiting);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lingering = self.own_answer.as_ref().map(|own| own.lingering);
        if lingering != Some(true) {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if lingering == Some(false) {
            self.reading.as_mut().reset(Instant::now() + LINGER);
            if let Some(own) = &mut self.own_answer {
                own.lingering = true;
            }
        }
        if lingering.is_some() {
            ready!(self.read_on(context));
        }
        Poll::Ready(Ok(()))
    }
}
