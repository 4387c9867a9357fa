//! The command line, and nothing else: what a person may type. `commands` turns it into work.
//!
//! One file a group of subcommands. A wrong value ends the program here, with exit status 2, naming the flag and what is
//! allowed. Every flag is also an environment variable; where the two speak of different things, what was typed wins.

mod bench;
mod load;
mod model;
mod named;
mod predict;
#[cfg(feature = "pull")]
mod pull;
mod serve;
mod values;

pub use bench::{Bench, Subject};
pub use load::{Load, Pattern};
pub use model::{Inspect, Verify};
pub use named::NamedFolder;
pub use predict::{Predict, Target};
#[cfg(feature = "pull")]
pub use pull::Pull;
pub use serve::{Log, Serve, Toggle};
pub use values::Compute;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::{OsStr, OsString};

/// Vision transformers: serve a model over HTTP, classify a folder, look into a model, check it, measure it, bring one from the hub
///
/// Without a command, `serve` is meant: `featherlight --port 9000`. Without a model, the one compiled in is used.
#[derive(Debug, Parser)]
#[command(name = "featherlight", version, override_usage = "featherlight [COMMAND] [OPTIONS]")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model over HTTP until SIGTERM (also without the word `serve`)
    Serve(Box<Serve>),
    /// Classify a folder, a photo or a CSV list into a CSV
    Predict(Predict),
    /// Architecture, parameters, trainable parameters, labels and memory of a model; config.json alone is enough
    Inspect(Inspect),
    /// Run `pixel_values` of a file through the model and compare with its `logits`; exit 1 beyond the tolerance
    Verify(Verify),
    /// Measure a model, or a running service
    Bench(Bench),
    /// Bring a model folder from the Hugging Face hub: config, processor and weights
    #[cfg(feature = "pull")]
    Pull(Pull),
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// What clap says of a wrong one; help and version are errors too.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(with_command(words))?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let Some((_, matches)) = matches.subcommand() {
            let typed = Typed(matches);
            match &mut cli.command {
                Command::Predict(predict) => predict.settle(&typed)?,
                Command::Inspect(inspect) => inspect.settle(&typed)?,
                Command::Bench(bench) => bench.settle(&typed)?,
                Command::Verify(verify) => verify.compute.refuse_list("verify")?,
                Command::Serve(serve) => serve.settle(&typed)?,
                #[cfg(feature = "pull")]
                Command::Pull(_) => {}
            }
        }
        Ok(cli)
    }
}

/// The words with `serve` where no command is named: nothing at all, or a flag of `serve` first.
fn with_command(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let own = ["-h", "--help", "-V", "--version"];
    let flag =
        |word: &OsStr| word.as_encoded_bytes().starts_with(b"-") && !own.iter().any(|own| word == *own);
    if words.get(1).is_none_or(|first| flag(first)) {
        words.insert(words.len().min(1), "serve".into());
    }
    words
}

/// A command line that is wrong in itself, as clap reports it: exit status 2.
pub fn usage_error(message: impl std::fmt::Display) -> clap::Error {
    Cli::command().error(ErrorKind::ArgumentConflict, message)
}

/// Which flags were typed. The environment is set for many commands at once, so what it says beyond the need is no mistake.
struct Typed<'a>(&'a ArgMatches);

impl Typed<'_> {
    fn has(&self, id: &str) -> bool {
        self.0.value_source(id) == Some(ValueSource::CommandLine)
    }

    /// The first of `ids` that was typed.
    fn any(&self, ids: &[&'static str]) -> Option<&'static str> {
        ids.iter().find(|id| self.has(id)).copied()
    }

    /// Refuses any of `others` beside `id`.
    fn refuse_beside(&self, id: &str, others: &[&'static str]) -> Result<(), clap::Error> {
        match self.any(others).filter(|_| self.has(id)) {
            Some(other) => {
                let (id, other) = (flag(id), flag(other));
                Err(usage_error(format!("the argument '{id}' cannot be used with '{other}'")))
            }
            None => Ok(()),
        }
    }

    /// Refuses any of `ids` where `wanted` is not given at all.
    fn refuse_without(&self, wanted: &str, given: bool, ids: &[&'static str]) -> Result<(), clap::Error> {
        match self.any(ids).filter(|_| !given) {
            Some(id) => {
                Err(usage_error(format!("the argument '{}' goes with '{}' only", flag(id), flag(wanted))))
            }
            None => Ok(()),
        }
    }
}

/// The flag of a field.
fn flag(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use featherlight::engine::BatchLimit;

    fn read(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("featherlight").chain(line.split_whitespace()).map(OsString::from);
        Cli::read(words).map(|cli| cli.command)
    }

    fn refusal(line: &str) -> String {
        let error = read(line).err().unwrap_or_else(|| usage_error("it was taken"));
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_meant_where_no_command_is_named() {
        assert!(matches!(read(""), Ok(Command::Serve(_))));
        let Ok(Command::Serve(serve)) = read("--port 9000 --max-batch-size 3") else {
            unreachable!("flags of serve are taken without its name")
        };
        assert_eq!((serve.port, serve.max_batch_size), (9000, Some(BatchLimit::Fixed(3))));
        assert!(matches!(read("serve --port 9000"), Ok(Command::Serve(_))));
        for line in ["--help", "-V"] {
            assert_eq!(read(line).err().map(|error| error.exit_code()), Some(0), "{line}");
        }
        assert!(refusal("sevre").contains("'serve'"), "a word that is no command gets the nearest one");
        assert!(refusal("--port 9000 inspect").contains("inspect"));
        assert!(refusal("--porf 9000").contains("--port"));
    }

    #[test]
    fn a_device_or_dtype_that_is_none_is_refused_with_what_there_is() {
        let verify = "verify --model m --expected e";
        let predict = "predict --input i --output o";
        for command in ["serve", predict, verify, "bench"] {
            for value in ["auto", "cpu", "cuda", "cuda:1"] {
                for dtype in ["auto", "f32", "bf16", "f16"] {
                    let line = format!("{command} --device {value} --dtype {dtype}");
                    assert!(read(&line).is_ok(), "{line}");
                }
            }
            for value in ["gpu", "cuda:", "cuda:x", "cpu,cuda"] {
                let error = refusal(&format!("{command} --device {value}"));
                let told = ["--device", value, "auto, cpu, cuda"].iter().all(|part| error.contains(part));
                assert!(told, "{error}");
            }
            for value in ["int8", "f64"] {
                let error = refusal(&format!("{command} --dtype {value}"));
                let told = ["--dtype", value, "auto, f32, bf16"].iter().all(|part| error.contains(part));
                assert!(told, "{error}");
            }
        }
    }

    #[test]
    fn a_list_of_devices_is_for_commands_that_share_photos_among_them() {
        for command in ["serve", "predict --input i --output o"] {
            assert!(read(&format!("{command} --device cuda:0,1")).is_ok(), "{command}");
        }
        for command in ["verify --model m --expected e", "bench", "bench --config c"] {
            let error = refusal(&format!("{command} --device cuda:0,1"));
            let told = ["--device", "cuda:0,1", "a single device"].iter().all(|part| error.contains(part));
            assert!(told, "{error}");
        }
    }

    #[test]
    fn what_protects_the_service_is_refused_where_it_would_not() {
        assert!(refusal("--protect-all").contains("--api-key"));
        assert!(read("--protect-all --api-key a").is_ok());
        assert!(read("--protect-all --api-key-file keys").is_ok());
        assert!(refusal("--admin-host ::1").contains("--admin-port"));
        for (line, told) in [
            ("--cors-allow-origin photos.example", "https://photos.example"),
            ("--cors-allow-origin https://a.example/path", "no path"),
            ("--api-key schlüssel", "visible ASCII"),
            ("--max-photos-per-request 0", "1..=1024"),
            ("--max-connections 0", "1.."),
            ("--header-timeout-ms 0", "1.."),
            ("--access-log never", "on, off"),
            ("--admin-port 70000", "65535"),
        ] {
            let error = refusal(line);
            let flag = line.split(' ').next().unwrap_or_default();
            assert!(error.contains(told) && error.contains(flag), "{line}: {error}");
        }
    }

    #[test]
    fn a_prediction_is_made_by_a_model_or_by_a_service() {
        let both = refusal("predict --input i --output o --server http://a --model m");
        assert!(both.contains("--server") && both.contains("--model"), "{both}");
        assert!(
            refusal("predict --input i --output o --server http://a --batch-size 4").contains("--batch-size")
        );
        assert!(refusal("predict --input i --output o --concurrency 4").contains("--server"));
        assert!(refusal("predict --input i").contains("--output"));
        assert!(refusal("predict --input i --output o --top-k 0").contains("--top-k"));
        let Ok(Command::Predict(predict)) = read("predict --input i --output o --server http://a") else {
            unreachable!("a service alone is enough")
        };
        assert!(matches!(predict.target(), Target::Server(server) if server == "http://a"));
    }

    #[test]
    fn inspect_counts_an_adapter_or_a_plan_for_one() {
        assert!(refusal("inspect --adapter a --lora-rank 4 --lora-target query").contains("--lora-rank"));
        assert!(refusal("inspect --lora-target query").contains("--lora-rank"));
        assert!(read("inspect --lora-rank 4").is_ok());
        assert!(read("inspect --lora-rank 4 --lora-target query,value").is_ok());
        assert!(read("inspect").is_ok());
    }

    #[test]
    fn an_adapter_from_the_environment_goes_before_a_plan_from_there() {
        let mut inspect = match read("inspect --adapter a") {
            Ok(Command::Inspect(inspect)) => inspect,
            other => unreachable!("{other:?}"),
        };
        inspect.lora_rank = Some(16); // as FEATHERLIGHT_LORA_RANK, meant for a training run, would
        let nothing = Cli::command().get_matches_from(["featherlight", "inspect"]);
        let typed = Typed(nothing.subcommand_matches("inspect").unwrap_or(&nothing));
        assert!(inspect.settle(&typed).is_ok());
        assert_eq!((inspect.lora_rank, inspect.adapter.is_some()), (None, true));
    }

    #[cfg(feature = "pull")]
    #[test]
    fn a_pull_names_a_model_of_the_hub_and_takes_its_main_version() {
        let Ok(Command::Pull(pull)) = read("pull microsoft/beit-base") else {
            unreachable!("a model alone is enough")
        };
        assert_eq!((pull.repository.as_str(), pull.revision.as_str()), ("microsoft/beit-base", "main"));
        assert!(read("pull gpt2 --revision refs/pr/1 --output o --overwrite --offline").is_ok());
        for (line, told) in
            [("pull", "ORG/NAME"), ("pull ../x", "ORG/NAME"), ("pull a/b --revision ..", "--revision")]
        {
            assert!(refusal(line).contains(told), "{line}");
        }
    }

    #[test]
    fn a_measurement_has_one_subject() {
        assert!(refusal("bench --config c --model m").contains("--config"));
        assert!(refusal("bench --server http://a --config c").contains("--server"));
        assert!(refusal("bench --batch-size 1,0").contains("--batch-size"));
        assert!(refusal("bench --seconds never").contains("--seconds"));
        let Ok(Command::Bench(bench)) = read("bench --batch-size 1,4,16") else {
            unreachable!("sizes are a list")
        };
        assert_eq!(bench.batch_size, [1, 4, 16]);
    }

    #[test]
    fn a_service_is_loaded_on_a_schedule_or_as_it_answers() {
        let pattern = |line: &str| match read(&format!("bench --server http://a {line}")) {
            Ok(Command::Bench(bench)) => bench.load.pattern(),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(pattern(""), Pattern::Closed(vec![8]));
        assert_eq!(pattern("--concurrency 1,8,32"), Pattern::Closed(vec![1, 8, 32]));
        assert_eq!(pattern("--rate 50,0.5"), Pattern::Open { rates: vec![50.0, 0.5], max_in_flight: 512 });
        let open = Pattern::Open { rates: vec![9.0], max_in_flight: 7 };
        assert_eq!(pattern("--rate 9 --max-in-flight 7"), open);

        let both = refusal("bench --server http://a --rate 5 --concurrency 2");
        assert!(["--rate", "--concurrency", "schedule"].iter().all(|part| both.contains(part)), "{both}");
        assert!(refusal("bench --server http://a --max-in-flight 7").contains("'--rate'"));
        for (flag, value) in [
            ("--concurrency", "2"),
            ("--rate", "5"),
            ("--timeout-ms", "100"),
            ("--path", "/classify/a"),
            ("--top-k", "1"),
            ("--metrics-url", "http://b"),
            ("--api-key", "k"),
        ] {
            let told = refusal(&format!("bench {flag} {value}"));
            assert!(told.contains(flag) && told.contains("'--server'"), "{told}");
        }
        for (flag, value) in [
            ("--concurrency", "1,0"),
            ("--rate", "0"),
            ("--rate", "5,nan"),
            ("--timeout-ms", "0"),
            ("--path", "classify"),
            ("--path", "/a#b"),
            ("--metrics-url", "127.0.0.1:9000"),
        ] {
            let told = refusal(&format!("bench --server http://a {flag} {value}"));
            assert!(told.contains(flag), "{told}");
        }
    }

    #[test]
    fn a_rate_from_the_environment_gives_way_to_a_typed_number_of_clients() {
        let line = ["featherlight", "bench", "--server", "http://a", "--concurrency", "2"];
        let matches = Cli::command().get_matches_from(line);
        let Some((_, matches)) = matches.subcommand() else { unreachable!("a command is named") };
        let Ok(mut load) = Load::from_arg_matches(matches) else { unreachable!("its flags are there") };
        load.rate = vec![5.0]; // as FEATHERLIGHT_RATE would
        assert!(load.settle(&Typed(matches)).is_ok());
        assert_eq!(load.pattern(), Pattern::Closed(vec![2]));
    }
}
