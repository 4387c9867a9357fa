//! `featherlight pull`: brings a model folder from the hub, shows how far it is, and says what to type next.

use crate::cli;
use featherlight::model::{Head, ModelError, ModelFolder};
use featherlight::pull::{Environment, Event, Patience, Pull, Pulled};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::error::Error;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two lines about a large file, where there is no terminal for a bar.
const LINES: Duration = Duration::from_secs(30);
/// Letters of a commit that a person needs.
const SHORT_COMMIT: usize = 12;

/// Pulls, then looks at what came.
///
/// # Errors
/// If the model cannot be pulled, or is none that can be loaded.
pub fn run(arguments: cli::Pull) -> Result<(), Box<dyn Error>> {
    let environment = Environment::read(|name| std::env::var_os(name))?;
    let name = arguments.repository.folder_name(&arguments.revision);
    let own_place = |home: PathBuf| home.join("featherlight").join(name);
    let folder = arguments.output.or_else(|| environment.home.map(own_place));
    let folder = folder.ok_or("neither HF_HOME nor HOME is set: choose a folder with --output")?;
    let pull = Pull {
        access: environment.access,
        repository: arguments.repository,
        revision: arguments.revision,
        folder,
        overwrite: arguments.overwrite,
        patience: Patience::default(),
    };
    let mut show = Show::default();
    let mut observer = |event: Event<'_>| show.event(event);
    let pulled = if arguments.offline || environment.offline {
        pull.offline(&mut observer)?
    } else {
        pull.run(&mut observer)?
    };
    tell(&pull, &pulled)
}

/// What there is now, and the next command.
fn tell(pull: &Pull, pulled: &Pulled) -> Result<(), Box<dyn Error>> {
    let Pull { repository, folder, .. } = pull;
    let commit: String = pulled.commit.chars().take(SHORT_COMMIT).collect();
    let state = match pulled.brought {
        0 => "up to date".to_owned(),
        1 => "1 file brought".to_owned(),
        count => format!("{count} files brought"),
    };
    writeln!(stdout(), "{repository} at {commit}: {} ({state})", folder.display())?;
    let next = Next::of(folder).map_err(|error| format!("all files are there, but {error}"))?;
    writeln!(stdout(), "{}", next.words(&quoted(folder)))?;
    Ok(())
}

/// What a model can be used for as it is.
struct Next {
    /// Why photos cannot be prepared for it, if they cannot.
    processor: Option<String>,
    /// Whether it classifies at all.
    head: bool,
    /// Whether its labels have names.
    named: bool,
}

impl Next {
    fn of(path: &Path) -> Result<Self, ModelError> {
        let folder = ModelFolder::open(path)?;
        let head = folder.check_for(folder.config())? == Head::Kept;
        let label = |(index, label): (usize, &String)| *label == format!("LABEL_{index}");
        let named = !folder.config().labels.iter().enumerate().all(label);
        Ok(Self { processor: folder.processor().err().map(|error| error.to_string()), head, named })
    }

    fn words(&self, folder: &str) -> String {
        let fit = format!("featherlight-train fit --data PHOTOS --model {folder} --output RUN");
        let next = match (self.head, self.named) {
            (true, true) => format!("Try: featherlight serve --model {folder}"),
            (true, false) => format!(
                "Try: featherlight serve --model {folder}\nIts labels have no names (LABEL_0 …); for labels of your own: {fit}"
            ),
            (false, _) => {
                format!(
                    "It has no head for its labels, as one that was only pretrained; fine-tune it first: {fit}"
                )
            }
        };
        match &self.processor {
            None => next,
            Some(problem) => format!(
                "Photos cannot be prepared for it: {problem}. preprocessor_config.json says how a photo becomes pixels; where a \
                 repository has none, write it, or copy it from the model that this one was made of. Then:\n{next}"
            ),
        }
    }
}

/// A path that can be pasted into a shell.
fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

/// What a person sees meanwhile: a bar on a terminal, lines elsewhere.
struct Show {
    bar: ProgressBar,
    file: String,
    last_line: Instant,
}

impl Default for Show {
    fn default() -> Self {
        Self { bar: ProgressBar::hidden(), file: String::new(), last_line: Instant::now() }
    }
}

impl Show {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started { file, size, have } => self.start(file, size, have),
            Event::Advanced(bytes) => {
                self.bar.inc(bytes);
                if self.last_line.elapsed() >= LINES && !stderr().is_terminal() {
                    self.last_line = Instant::now();
                    self.line(&format!("{}: {}", self.file, HumanBytes(self.bar.position())));
                }
            }
            Event::Restarted => {
                self.bar.set_position(0);
                self.line("the server sends the file from its beginning again");
            }
            Event::Comparing { file } => self.bar.set_message(format!("{file}: comparing")),
            Event::Brought { file, size } => self.end(&format!("{file}: {}", HumanBytes(size))),
            Event::Kept { file } => self.end(&format!("{file}: up to date")),
            Event::Waiting { reason, pause } => {
                self.line(&format!("{reason}; again in {:.0} s", pause.as_secs_f64()));
            }
            Event::Remark(text) => self.line(text),
        }
    }

    fn start(&mut self, file: &str, size: Option<u64>, have: u64) {
        let terminal = stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = match size {
            Some(_) => "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{msg} {bytes}, {bytes_per_sec}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::with_draw_target(size, target).with_style(style).with_position(have);
        self.bar.set_message(file.to_owned());
        // What an earlier run brought is no part of this one's speed.
        self.bar.reset_eta();
        (self.file, self.last_line) = (file.to_owned(), Instant::now());
        if have > 0 {
            self.line(&format!("{file}: goes on after {}", HumanBytes(have)));
        }
    }

    fn end(&self, line: &str) {
        self.bar.finish_and_clear();
        self.line(line);
    }

    /// A line above the bar. A closed standard error is no reason to fail what is being done.
    fn line(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(stderr(), "{line}");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_where_a_shell_would_take_it_apart() {
        for (path, want) in [("/a/b--c@x", "/a/b--c@x"), ("/a b", "'/a b'"), ("/it's", r"'/it'\''s'")] {
            assert_eq!(quoted(Path::new(path)), want);
        }
    }

    #[test]
    fn a_model_without_a_head_is_to_be_fine_tuned() {
        let words = |head, named| Next { processor: None, head, named }.words("m");
        assert_eq!(words(true, true), "Try: featherlight serve --model m");
        assert!(words(true, false).contains("serve") && words(true, false).contains("no names"));
        assert!(
            words(false, true).contains("featherlight-train fit") && !words(false, true).contains("serve")
        );
        let unprepared = Next { processor: Some("no such file".to_owned()), head: true, named: true };
        assert!(unprepared.words("m").contains("preprocessor_config.json"));
    }
}
