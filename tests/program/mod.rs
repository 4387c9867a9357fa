//! `featherlight serve` as a process of its own: a real model, a real socket, real signals.
#![allow(dead_code, reason = "each test program uses its own part of this harness")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_featherlight");

/// A file of the tests' own.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// A running service. Killed when a test fails.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
}

impl Served {
    /// Starts `serve` with more flags, on a port the system chooses, and waits until it says that it serves.
    pub fn start(model: &Path, flags: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--port", "0", "--model"])
            .arg(model)
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        // Let go after one line: `a_closed_standard_output_ends_the_service` was a bug.
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit("http://").next().and_then(|address| address.parse().ok());
        Self { child, address: address.unwrap_or_else(|| panic!("no address in `{line}`")) }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill");
        assert!(killed.success());
    }

    /// The exit status, once the process has ended.
    pub fn exit_status(&mut self) -> Option<i32> {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("its end") {
                return status.code();
            }
            assert!(Instant::now() < patience, "the service did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
