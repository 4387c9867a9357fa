//! The real program, started as a person starts it, for whole-program tests.
#![allow(dead_code, reason = "each test program uses its own part of this harness")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A file of the reference outputs.
pub fn goldens(path: &str) -> PathBuf {
    root().join("tests/goldens").join(path)
}

/// The root of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program with these words, in an environment that says nothing to it.
pub fn featherlight(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight"));
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

/// A running service, and what it printed. Killed when a test is over.
pub struct Served {
    pub child: Child,
    pub address: String,
    /// The line to paste.
    pub hint: String,
}

impl Served {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        // Let go after two lines: `a_closed_standard_output_ends_the_service` was a bug.
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();
        let (first, hint) = (line(), line());
        let address = first.rsplit(' ').next().unwrap_or_default().to_owned();
        let served = Self { child, address, hint };
        assert!(served.address.starts_with("http://127.0.0.1:"), "{first}");
        served
    }

    /// The answer to a photo posted to `/classify` + `query`.
    pub fn classify(&self, photo: &Path, query: &str) -> Value {
        let bytes = std::fs::read(photo).expect("the photo");
        let url = format!("{}/classify{query}", self.address);
        let mut answer = ureq::post(&url).content_type("image/jpeg").send(&bytes[..]).expect("an answer");
        serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
    }

    pub fn get(&self, path: &str) -> Value {
        let mut answer = ureq::get(&format!("{}{path}", self.address)).call().expect("an answer");
        serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
