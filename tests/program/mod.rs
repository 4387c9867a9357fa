//! `featherlight` as a process of its own: a real model, a real socket, real signals.
#![allow(dead_code, reason = "each test program uses its own part of this harness")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_featherlight");

/// A file of the tests' own.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The program with these words, in an environment that says nothing to it.
pub fn featherlight(words: &[&str]) -> Command {
    quiet(Path::new(PROGRAM), words)
}

/// Any program of the project, likewise.
pub fn quiet(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FEATHERLIGHT_")) {
        command.env_remove(name);
    }
    command
}

/// What a finished program said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    command.output().expect("the program runs").into()
}

/// A running service. Killed when a test fails.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
    /// The line to paste that it printed.
    pub hint: String,
    /// Where health and metrics are, if it has an admin port.
    pub admin: Option<SocketAddr>,
}

impl Served {
    /// Starts `serve` with more flags, on a port the system chooses, and waits until it says that it serves.
    pub fn start(model: &Path, flags: &[&str]) -> Self {
        Self::spawn(featherlight(&["serve", "--port", "0", "--model"]).arg(model).args(flags))
    }

    /// The same for a whole command, which must choose its port itself.
    pub fn spawn(command: &mut Command) -> Self {
        let has_admin_port = command.get_args().any(|word| word == "--admin-port");
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        // Let go after these lines: `a_closed_standard_output_ends_the_service` was a bug.
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();
        let (first, hint) = (line(), line());
        let address = |line: &str| {
            let address = line.rsplit("http://").next().and_then(|address| address.parse().ok());
            address.unwrap_or_else(|| panic!("no address in `{line}`"))
        };
        let admin = has_admin_port.then(|| address(&line()));
        Self { address: address(&first), child, hint, admin }
    }

    /// `http://` and its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let killed = Command::new("kill").args(["-s", name]).arg(self.child.id().to_string()).status();
        assert!(killed.expect("kill").success());
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
