//! `featherlight pull` as a person runs it, against a hub of the tests' own: what comes, what is refused, what a broken line leaves.

#![cfg(feature = "pull")]
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod hub;
mod program;

use featherlight::pull::{Access, Patience, Pull, PullError, Pulled};
use hub::files::{assert_is, golden, model, names, tiny};
use hub::{COMMIT, Fault, Hub, REPOSITORY};
use program::{Said, data, featherlight, run};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A person's machine: a home of its own and nothing else that speaks of the hub.
struct Machine {
    hub: Hub,
    home: TempDir,
}

impl Machine {
    fn with(files: &[(&str, Vec<u8>)]) -> Self {
        Self { hub: Hub::start(files), home: tempfile::tempdir().expect("a home") }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = featherlight(&["pull"]);
        for (name, _) in std::env::vars() {
            let upper = name.to_uppercase();
            if upper.starts_with("HF_") || upper.starts_with("HUGGING") || upper.ends_with("_PROXY") {
                command.env_remove(name);
            }
        }
        for name in ["TRANSFORMERS_OFFLINE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", self.hub.url()).env("HF_HOME", self.home.path()).args(words);
        command
    }

    fn pull(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }

    /// Where a model goes if nobody says where.
    fn own(&self) -> std::path::PathBuf {
        self.home.path().join("featherlight/org--beit-tiny")
    }

    /// The same through the library, where patience can be short.
    fn run(&self, folder: &Path) -> Result<Pulled, PullError> {
        let pull = Pull {
            access: Access { endpoint: self.hub.url(), token: None, certificates: None },
            repository: REPOSITORY.parse().expect("a name"),
            revision: "main".parse().expect("a revision"),
            folder: folder.to_owned(),
            overwrite: false,
            patience: Patience { tries: 3, pause: Duration::from_millis(5) },
        };
        pull.run(&mut |_| {})
    }
}

fn assert_runs(folder: &Path, expected: &str) {
    let expected = data("goldens").join(expected).join("expected.safetensors");
    let said = run(featherlight(&["verify", "--device", "cpu", "--model"])
        .arg(folder)
        .arg("--expected")
        .arg(expected));
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
}

#[test]
fn a_model_is_pulled_runs_and_is_up_to_date_the_second_time() {
    let machine = Machine::with(&tiny());
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let folder = machine.own();
    assert_is(&folder, &tiny());
    assert!(said.out.contains("at 0123456789ab"), "{}", said.out);
    assert!(said.out.contains(&format!("featherlight serve --model {}", folder.display())), "{}", said.out);
    assert!(said.err.contains("model.safetensors"), "progress in lines: {}", said.err);
    let requests = machine.hub.requests();
    let later: Vec<_> =
        requests.iter().filter(|request| request.path.contains("/resolve/")).skip(1).collect();
    assert!(later.len() > 3 && later.iter().all(|request| request.path.contains(COMMIT)), "{later:?}");

    assert_runs(&folder, "beit-tiny");
    let said = run(featherlight(&["inspect", "--model"]).arg(&folder));
    assert!(said.out.contains("beit"), "{}{}", said.out, said.err);

    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("up to date"), "{}", said.out);
    let heads = machine.hub.requests();
    assert!(!heads.is_empty() && heads.iter().all(|request| request.method == "HEAD"), "{heads:?}");
}

#[test]
fn a_connection_that_is_cut_is_taken_up_where_it_broke() {
    let machine = Machine::with(&tiny());
    machine.hub.fault(Fault::Cut { times: 1, after: 100_000 });
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("again in"), "{}", said.err);
    assert_is(&machine.own(), &tiny());
    let deliveries = machine.hub.deliveries();
    let ranges: Vec<_> = deliveries.iter().map(|request| (request.range(), request.sent)).collect();
    let size = golden("beit-tiny/model.safetensors").len();
    assert_eq!(ranges, [(None, 100_000), (Some("bytes=100000-"), size - 100_000)]);
}

#[test]
fn a_line_that_stays_broken_leaves_a_part_and_no_model_and_the_next_run_goes_on() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    machine.hub.fault(Fault::Cut { times: 3, after: 50_000 });
    let error = machine.run(&folder).expect_err("three cuts, three tries").to_string();
    assert!(error.contains("150000 bytes are kept"), "{error}");
    let left = names(&folder);
    assert!(
        left.len() == 1 && left[0].starts_with(".model.safetensors.") && left[0].ends_with(".incomplete")
    );
    machine.hub.requests();

    assert_eq!(machine.run(&folder).expect("the rest").brought, 3);
    assert_is(&folder, &tiny());
    let deliveries = machine.hub.deliveries();
    let ranges: Vec<_> = deliveries.iter().map(|request| (request.range(), request.sent)).collect();
    assert_eq!(ranges, [(Some("bytes=150000-"), golden("beit-tiny/model.safetensors").len() - 150_000)]);
}

#[test]
fn a_part_of_another_version_is_never_continued() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    machine.hub.fault(Fault::Cut { times: 3, after: 50_000 });
    machine.run(&folder).expect_err("broken off");
    let mut changed = golden("beit-tiny/model.safetensors");
    let last = changed.len() - 1;
    changed[last] ^= 1;
    machine.hub.change("model.safetensors", changed.clone());
    machine.hub.requests();
    machine.run(&folder).expect("the new version");
    assert!(machine.hub.deliveries().iter().all(|request| request.range().is_none()));
    let mut files = tiny();
    files[2].1 = changed;
    assert_is(&folder, &files);
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    machine.hub.fault(Fault::Cut { times: 3, after: 50_000 });
    machine.run(&folder).expect_err("broken off");
    machine.hub.fault(Fault::NoRanges);
    machine.run(&folder).expect("from the start");
    assert_is(&folder, &tiny());
}

#[test]
fn a_busy_server_is_asked_again_and_one_that_stays_busy_is_given_up() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    machine.hub.fault(Fault::Busy { times: 2 });
    machine.run(&folder).expect("the third try");
    assert_is(&folder, &tiny());
    machine.hub.fault(Fault::Busy { times: 3 });
    let other = machine.home.path().join("other");
    let error = machine.run(&other).expect_err("busy").to_string();
    assert!(error.contains("503") && error.contains("given up after 3 tries"), "{error}");
    assert_eq!(names(&other), [""; 0], "nothing came, and nothing is left");
}

#[test]
fn bytes_that_are_not_the_announced_ones_are_thrown_away() {
    let machine = Machine::with(&tiny());
    machine.hub.fault(Fault::Corrupt);
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("model.safetensors: what came has sha256"), "{}", said.err);
    assert!(said.err.contains("thrown away"), "{}", said.err);
    assert!(!machine.own().exists(), "nothing is left, not even the folder");
    machine.hub.fault(Fault::None);
    assert_eq!(machine.pull(&[REPOSITORY]).code, Some(0));
    assert_is(&machine.own(), &tiny());
}

#[test]
fn a_gated_model_wants_a_token_which_only_the_hub_gets_to_see() {
    let machine = Machine::with(&tiny());
    machine.hub.want_token("hf_right");
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("HF_TOKEN") && said.err.contains("gated"), "{}", said.err);
    let said = run(machine.command(&[REPOSITORY]).env("HF_TOKEN", "hf_wrong"));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("not open to the account") && !said.err.contains("hf_wrong"), "{}", said.err);
    assert!(!machine.own().exists(), "no folder is made for what is refused");

    std::fs::write(machine.home.path().join("token"), "hf_right\n").expect("written");
    machine.hub.requests();
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let requests = machine.hub.requests();
    assert!(requests.iter().any(|request| request.contents));
    for request in requests {
        assert_eq!(request.headers.contains_key("authorization"), !request.contents, "{request:?}");
    }
}

#[test]
fn certificates_that_are_none_are_refused_by_name() {
    let machine = Machine::with(&tiny());
    let file = machine.home.path().join("roots.pem");
    std::fs::write(&file, "no certificate").expect("written");
    let said = run(machine.command(&[REPOSITORY]).env("SSL_CERT_FILE", &file));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("SSL_CERT_FILE") && said.err.contains("roots.pem"), "{}", said.err);
    assert!(machine.hub.requests().is_empty(), "nobody was asked");
}

#[test]
fn two_pulls_do_not_write_into_one_folder() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    std::fs::create_dir(&folder).expect("a folder");
    let other = std::fs::File::open(&folder).expect("the folder");
    other.lock().expect("another pull's lock");
    let error = machine.run(&folder).expect_err("taken").to_string();
    assert!(error.contains("another pull is at work"), "{error}");
    drop(other);
    machine.run(&folder).expect("free again");
    assert_is(&folder, &tiny());
}

#[test]
fn what_the_hub_does_not_have_is_told_apart() {
    let machine = Machine::with(&tiny());
    let said = machine.pull(&["org/other"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("org/other") && said.err.contains("no such model"), "{}", said.err);
    let said = machine.pull(&[REPOSITORY, "--revision", "v/9"]);
    assert!(said.err.contains("no revision `v/9`"), "{}", said.err);
    let said = machine.pull(&[REPOSITORY, "--revision", "refs/pr/1"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_is(&machine.own().with_file_name("org--beit-tiny@refs%2Fpr%2F1"), &tiny());

    let bare = Machine::with(&tiny()[..2]);
    let said = bare.pull(&[REPOSITORY]);
    for file in ["no weights", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"] {
        assert!(said.err.contains(file), "{}", said.err);
    }
    let empty = Machine::with(&[]);
    assert!(empty.pull(&[REPOSITORY]).err.contains("no config.json"));
}

#[test]
fn a_model_that_cannot_run_here_is_refused_before_its_weights_come() {
    for (config, refusal) in [
        (r#"{"model_type": "bert"}"#, "model_type `bert` is not supported"),
        (r#"{"architecture": "resnet50"}"#, "timm's architecture `resnet50` is not supported"),
        (r#"{"model_type": "vit", "hidden_size": 7}"#, "`hidden_size` is 7"),
    ] {
        let mut files = tiny();
        files[0].1 = config.as_bytes().to_vec();
        let machine = Machine::with(&files);
        let said = machine.pull(&[REPOSITORY]);
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains(refusal), "{}", said.err);
        assert!(machine.hub.requests().iter().all(|request| !request.path.contains("safetensors")));
        assert!(!machine.own().exists());
    }
}

#[test]
fn shards_come_with_their_index_and_pickles_where_there_is_nothing_better() {
    let weights = golden("beit-tiny/model.safetensors");
    let index = br#"{"weight_map": {"classifier.weight": "model-00001-of-00001.safetensors"}}"#.to_vec();
    let mut files = tiny();
    files.truncate(2);
    files.push(("model.safetensors.index.json", index));
    files.push(("model-00001-of-00001.safetensors", weights));
    let machine = Machine::with(&files);
    assert_eq!(machine.pull(&[REPOSITORY]).code, Some(0));
    assert_is(&machine.own(), &files);
    assert_runs(&machine.own(), "beit-tiny");

    files.truncate(3);
    let broken = Machine::with(&files);
    let said = broken.pull(&[REPOSITORY]);
    assert!(said.err.contains("names model-00001-of-00001.safetensors"), "{}", said.err);
    assert_eq!(names(&broken.own()), [""; 0]);

    let names = ["config.json", "preprocessor_config.json", "pytorch_model.bin"];
    let files = model("beit-tiny-bin", &names);
    let machine = Machine::with(&files);
    assert_eq!(machine.pull(&[REPOSITORY]).code, Some(0));
    assert_is(&machine.own(), &files);
    assert_runs(&machine.own(), "beit-tiny");
}

#[test]
fn a_timm_model_comes_without_a_processor_file_and_one_of_transformers_is_told_to_lack_it() {
    let files = model("beit-tiny-timm", &["config.json", "model.safetensors"]);
    let machine = Machine::with(&files);
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains("Try: featherlight serve") && said.out.contains("no names"), "{}", said.out);
    assert_runs(&machine.own(), "beit-tiny-timm");

    let mut files = tiny();
    files.remove(1);
    let machine = Machine::with(&files);
    let said = machine.pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("preprocessor_config.json says how a photo becomes pixels"), "{}", said.out);
}

#[test]
fn offline_a_finished_pull_is_enough_and_nothing_else_is() {
    let machine = Machine::with(&tiny());
    let said = machine.pull(&[REPOSITORY, "--offline"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("offline") && said.err.contains("no finished pull"), "{}", said.err);
    assert_eq!(machine.pull(&[REPOSITORY]).code, Some(0));
    machine.hub.requests();
    let offline = || run(machine.command(&[REPOSITORY]).env("HF_HUB_OFFLINE", "1"));
    let said = offline();
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("up to date"), "{}", said.out);
    std::fs::remove_file(machine.own().join("model.safetensors")).expect("removed");
    let said = offline();
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("lacks model.safetensors"), "{}", said.err);
    assert!(machine.hub.requests().is_empty(), "nobody was asked");
}

#[test]
fn files_of_others_are_kept_and_the_pulls_own_brought_up_to_date() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    let output = folder.to_str().expect("a path");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), "{}").expect("written");
    std::fs::write(folder.join("notes.txt"), "mine").expect("written");
    let said = machine.pull(&[REPOSITORY, "--output", output]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("config.json") && said.err.contains("--overwrite"), "{}", said.err);
    assert_eq!(names(&folder), ["config.json", "notes.txt"]);
    assert_eq!(machine.pull(&[REPOSITORY, "--output", output, "--overwrite"]).code, Some(0));
    let mut files = tiny();
    files.push(("notes.txt", b"mine".to_vec()));
    assert_is(&folder, &files);

    let mut config = files[0].1.clone();
    config.push(b'\n');
    machine.hub.change("config.json", config.clone());
    machine.hub.requests();
    assert_eq!(machine.run(&folder).expect("a new config").brought, 1);
    assert_eq!(machine.hub.deliveries().len(), 0, "the weights are the same");
    files[0].1 = config;
    assert_is(&folder, &files);

    std::fs::write(folder.join("preprocessor_config.json"), "{}").expect("written");
    let error = machine.run(&folder).expect_err("somebody's change").to_string();
    assert!(error.contains("preprocessor_config.json") && error.contains("was changed"), "{error}");
    let said = machine.pull(&["org/other", "--output", output]);
    assert!(said.err.contains("holds org/beit-tiny"), "{}", said.err);
}

#[test]
fn weights_that_would_be_read_in_the_models_place_are_refused() {
    let files = model("beit-tiny-bin", &["config.json", "preprocessor_config.json", "pytorch_model.bin"]);
    let machine = Machine::with(&files);
    let folder = machine.home.path().join("model");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("model.safetensors"), "another").expect("written");
    let error = machine.run(&folder).expect_err("in the way").to_string();
    assert!(error.contains("in place of pytorch_model.bin"), "{error}");
    assert_eq!(names(&folder), ["model.safetensors"]);
}

#[test]
fn what_a_new_revision_no_longer_has_goes_if_it_is_as_it_was_pulled() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    machine.run(&folder).expect("the first revision");
    let index = br#"{"weight_map": {"classifier.weight": "model-00001-of-00001.safetensors"}}"#;
    machine.hub.change("model.safetensors.index.json", index.to_vec());
    machine.hub.change("model-00001-of-00001.safetensors", golden("beit-tiny/model.safetensors"));
    machine.hub.remove("model.safetensors");
    machine.hub.remove("preprocessor_config.json");
    assert_eq!(machine.run(&folder).expect("the second").brought, 2);
    let files = ["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"];
    assert_eq!(names(&folder)[1..], files, "neither the old processor nor the old weights");
    assert_runs(&folder, "beit-tiny");

    machine.hub.remove("model-00001-of-00001.safetensors");
    machine.hub.remove("model.safetensors.index.json");
    machine.hub.change("pytorch_model.bin", golden("beit-tiny-bin/pytorch_model.bin"));
    std::fs::write(folder.join("model.safetensors.index.json"), "{}").expect("written");
    let error = machine.run(&folder).expect_err("somebody's index").to_string();
    assert!(error.contains("in place of pytorch_model.bin"), "{error}");
}

#[test]
fn another_model_that_replaces_one_leaves_none_of_its_settings() {
    let machine = Machine::with(&tiny());
    let folder = machine.home.path().join("model");
    machine.run(&folder).expect("the first model");
    // As if the first pull had been another model's.
    let record = folder.join(".featherlight-pull.json");
    let text = std::fs::read_to_string(&record).expect("a record");
    std::fs::write(&record, text.replace(REPOSITORY, "org/other")).expect("written");
    machine.hub.remove("preprocessor_config.json");
    let output = folder.to_str().expect("a path");
    let said = machine.pull(&[REPOSITORY, "--output", output]);
    assert!(said.err.contains("holds org/other"), "{}", said.err);
    let said = machine.pull(&[REPOSITORY, "--output", output, "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(names(&folder)[1..], ["config.json", "model.safetensors"]);
}

#[test]
fn weights_that_are_no_model_are_said_to_be_none() {
    let cpu = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(data("goldens/beit-tiny/model.safetensors"), &cpu)
        .expect("a golden's weights");
    tensors.retain(|name, _| name.starts_with("classifier."));
    let folder = tempfile::tempdir().expect("a folder");
    let part = folder.path().join("part.safetensors");
    candle_core::safetensors::save(&tensors, &part).expect("saved");
    let mut files = tiny();
    files[2].1 = std::fs::read(&part).expect("saved");
    let said = Machine::with(&files).pull(&[REPOSITORY]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("all files are there, but") && said.err.contains("no tensor"), "{}", said.err);
}
