//! Whole comparisons, as a person runs them: tiny models on a few real photos.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

/// A folder with a bare config in `bare/`, and the file of a comparison.
struct Bench {
    folder: tempfile::TempDir,
}

fn tests(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(path).display().to_string()
}

impl Bench {
    fn new(variants: &str) -> Self {
        let bench = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(bench.path("bare")).expect("a folder");
        let config = r#"{"model_type": "beit", "image_size": 32, "patch_size": 8, "hidden_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
            "use_relative_position_bias": true, "initializer_range": 0.06}"#;
        std::fs::write(bench.path("bare/config.json"), config).expect("a config");
        bench.say(variants);
        bench
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Writes the file: two epochs on the small sample of real photos, then `variants`.
    fn say(&self, variants: &str) {
        let text = format!(
            "data = '{}'\nval_split = 0.1\ntest = '{}'\n[defaults]\nepochs = 2\naccumulation_steps = 1\nlearning_rate = 1e-3\n{variants}",
            tests("data/sign-digits/train"),
            tests("data/sign-digits/test"),
        );
        std::fs::write(self.path("c.toml"), text).expect("written");
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight-train"));
        command.args(["compare", "--device", "cpu", "--config"]).arg(self.path("c.toml"));
        command.arg("--output").arg(self.path("out")).args(words);
        // A setting of a person's shell is none of a variant's.
        command.env("FEATHERLIGHT_EPOCHS", "77").env("FEATHERLIGHT_METHOD", "head");
        command
    }

    /// Exit status, standard output, standard error.
    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(words).output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (status.code(), text(&stdout), text(&stderr))
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path(path)).expect("a file")).expect("JSON")
    }

    fn written(&self, path: &str) -> SystemTime {
        self.path(path).metadata().and_then(|file| file.modified()).expect("a file")
    }

    /// `comparison.csv`: for each variant its cells by name.
    fn csv(&self) -> HashMap<String, HashMap<String, String>> {
        let mut reader = csv::Reader::from_path(self.path("out/comparison.csv")).expect("a CSV");
        let rows = reader.deserialize().map(|row| row.expect("a row"));
        rows.map(|row: HashMap<String, String>| (row["variant"].clone(), row)).collect()
    }
}

const TWO: &str = "[[variant]]\nname = 'scratch'\nmodel = 'bare'\ninit = 'random'\nmethod = 'full'\n";

fn lora() -> String {
    format!("[[variant]]\nname = 'lora'\nmodel = '{}'\nlora_rank = 4\n", tests("goldens/beit-tiny"))
}

#[test]
#[ignore = "slow"]
fn a_comparison_is_true_and_is_not_done_twice() {
    let bench = Bench::new(&format!("{TWO}{}", lora()));
    let (code, out, err) = bench.run(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("comparison"), "{out}");

    let rows = bench.csv();
    assert_eq!(rows.len(), 2);
    for (name, cells) in &rows {
        let (run, measured) =
            (bench.json(&format!("out/{name}/run.json")), bench.json(&format!("out/{name}/evaluation.json")));
        assert_eq!(run["settings"]["epochs"], 2, "the environment leaked");
        let cell = |column: &str| -> f64 {
            cells[column].parse().unwrap_or_else(|_| panic!("{name}: {column}: {cells:?}"))
        };
        for (column, file, field) in [
            ("top1", &measured, "top1"),
            ("top5", &measured, "top5"),
            ("loss", &measured, "loss"),
            ("photos", &measured, "photos"),
            ("inference_images_per_second", &measured, "inference_images_per_second"),
            ("parameters", &run, "parameters"),
            ("trainable_parameters", &run, "trainable_parameters"),
            ("peak_memory_bytes", &run, "peak_memory_bytes"),
            ("training_seconds", &run, "seconds"),
            ("threads", &run, "threads"),
        ] {
            assert_eq!(Some(cell(column)), file[field].as_f64(), "{name}: {column}");
        }
        assert_eq!(
            (cells["state"].as_str(), cells["measured_on"].as_str(), cell("photos")),
            ("finished", "test", 30.0)
        );
        let metrics =
            std::fs::read_to_string(bench.path(&format!("out/{name}/metrics.jsonl"))).expect("metrics");
        let speeds: Vec<f64> = metrics
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<Value>(line).expect("JSON")["images_per_second"].as_f64()
            })
            .collect();
        let faster = speeds.iter().filter(|speed| **speed > cell("training_images_per_second")).count();
        assert!(
            faster <= speeds.len() / 2 && faster + 1 >= speeds.len() / 2,
            "no median: {speeds:?} {cells:?}"
        );

        // The same program on the same weights, asked by a person.
        let again = Command::new(env!("CARGO_BIN_EXE_featherlight-train"))
            .args([
                "evaluate",
                "--json",
                "--device",
                "cpu",
                "--data",
                &tests("data/sign-digits/test"),
                "--model",
            ])
            .arg(bench.path(&format!("out/{name}/merged")))
            .output()
            .expect("the program runs");
        let again: Value = serde_json::from_slice(&again.stdout).expect("JSON");
        assert_eq!(again["top1"].as_f64(), Some(cell("top1")));
    }
    assert_eq!(rows["lora"]["trainable_parameters"], (3 * 2 * 4 * 96 + 48 * 10 + 10).to_string());
    assert_eq!(rows["scratch"]["trainable_percent"], "100");
    let page = std::fs::read_to_string(bench.path("out/comparison.md")).expect("a page");
    let top1 = rows["lora"]["top1"].parse::<f64>().expect("a share");
    let row = page.lines().find(|line| line.starts_with("| lora |")).expect("a row");
    assert!(row.contains(&format!("{:.2} %", 100.0 * top1)), "{row}");

    let files = ["run.json", "result.json", "log.txt", "merged/model.safetensors"];
    // Nobody goes on from a finished variant.
    assert!(!bench.path("out/lora/checkpoints").exists() && !bench.path("out/scratch/checkpoints").exists());
    let times = |name: &str| files.map(|file| bench.written(&format!("out/{name}/{file}")));
    let before = (times("scratch"), times("lora"));
    let (code, _, err) = bench.run(&[]);
    assert_eq!((code, err.matches("finished before, kept").count()), (Some(0), 2), "{err}");
    assert_eq!(before, (times("scratch"), times("lora")));

    bench.say(&format!("{TWO}epochs = 3\n{}", lora()));
    let (code, _, err) = bench.run(&[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("scratch (epochs was 2, now 3)") && err.contains("--overwrite"), "{err}");
    assert_eq!(before, (times("scratch"), times("lora")));
    let (code, _, err) = bench.run(&["--overwrite"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(
        (bench.json("out/scratch/run.json")["settings"]["epochs"].as_u64(), times("lora")),
        (Some(3), before.1)
    );

    // A lost measurement costs no training.
    let trained = bench.written("out/lora/run.json");
    std::fs::remove_file(bench.path("out/lora/result.json")).expect("removed");
    let (code, _, err) = bench.run(&[]);
    assert!(code == Some(0) && err.contains("lora: measuring") && !err.contains("training"), "{err}");
    assert_eq!(trained, bench.written("out/lora/run.json"));
}

#[test]
#[ignore = "slow"]
fn without_a_test_set_the_last_evaluation_of_the_training_counts_and_seeds_are_averaged() {
    let bench = Bench::new("");
    let photos = tests("data/sign-digits/train");
    let text = format!(
        "data = '{photos}'\nval_split = 0.2\nevaluate_batch_size = 3\n[defaults]\nepochs = 2\n{TWO}seeds = [5, 6]\n"
    );
    std::fs::write(bench.path("c.toml"), text).expect("written");
    let (code, _, err) = bench.run(&[]);
    assert_eq!(code, Some(0), "{err}");
    let row = &bench.csv()["scratch"];
    let seeds = [5, 6].map(|seed| format!("out/scratch/seed-{seed}"));
    let runs = seeds.each_ref().map(|seed| bench.json(&format!("{seed}/run.json")));
    let top1 = runs.each_ref().map(|run| run["evaluation"]["top1"].as_f64().expect("a share"));
    let cell = |name: &str| row[name].parse::<f64>().expect("a number");
    assert!((cell("top1") - (top1[0] + top1[1]) / 2.0).abs() < 1e-12, "{row:?}");
    assert_eq!((cell("top1_min"), cell("top1_max")), (top1[0].min(top1[1]), top1[0].max(top1[1])));
    assert_eq!((row["measured_on"].as_str(), row["setting_seed"].as_str()), ("validation", "[5,6]"));
    assert_eq!(runs.map(|run| run["settings"]["seed"].as_u64()), [Some(5), Some(6)]);
    // The measurement is of the speed alone, on one batch.
    assert_eq!(bench.json(&format!("{}/evaluation.json", seeds[0]))["photos"], 3);
    assert!(cell("inference_images_per_second") > 0.0);
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "slow"]
fn a_signal_ends_the_training_too_and_what_was_finished_is_kept() {
    let long = "[[variant]]\nname = 'long'\nmodel = 'bare'\ninit = 'random'\nmethod = 'full'\nepochs = ";
    let broken = "[[variant]]\nname = 'broken'\nmodel = 'bare'\ninit = 'random'\nmethod = 'full'\nlearning_rate = 1e30\nwarmup_ratio = 0\n";
    let bench = Bench::new(&format!("{broken}{}{long}100000", lora()));
    let mut process = bench.command(&[]).stderr(std::process::Stdio::piped()).spawn().expect("started");
    let patience = Instant::now() + Duration::from_secs(300);
    while !bench.path("out/long/checkpoints").exists() {
        assert!(Instant::now() < patience, "the third training does not begin");
        assert!(process.try_wait().expect("a process").is_none(), "ended early");
        std::thread::sleep(Duration::from_millis(50));
    }
    let child = std::fs::read_to_string(bench.path("out/compare.lock")).expect("a lock");
    assert!(Path::new("/proc").join(&child).exists(), "{child}");
    let (code, _, err) = bench.run(&[]);
    assert!(
        code == Some(1) && err.contains("another comparison is at work") && err.contains(&child),
        "{err}"
    );

    let kill = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let ended = process.wait_with_output().expect("an end");
    let err = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    assert!(!Path::new("/proc").join(&child).exists(), "the training goes on");

    let rows = bench.csv();
    let state = |name: &str| rows[name]["state"].clone();
    assert_eq!([state("broken"), state("lora"), state("long")], ["failed", "finished", "not run yet"]);
    assert!(rows["broken"]["error"].contains("the loss is"), "{:?}", rows["broken"]);

    let kept = bench.written("out/lora/run.json");
    bench.say(&format!("{broken}{}{long}1", lora()));
    let (code, _, err) = bench.run(&[]);
    // The broken one is tried again, and fails again.
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("lora: finished before, kept") && err.contains("1 of the runs failed"), "{err}");
    assert_eq!(kept, bench.written("out/lora/run.json"));
    assert_eq!(bench.csv()["long"]["state"], "finished");
    let page = std::fs::read_to_string(bench.path("out/comparison.html")).expect("a page");
    assert!(page.contains("<b>broken</b> failed: fit: "), "{page}");
}

#[test]
fn what_cannot_work_is_refused_before_anything_runs() {
    let bench = Bench::new(TWO);
    for folder in ["misshapen", "wet", "low"] {
        std::fs::create_dir(bench.path(folder)).expect("a folder");
    }
    let config = std::fs::read_to_string(bench.path("bare/config.json")).expect("a config");
    let wet = config.replacen('{', "{\"hidden_dropout_prob\": 0.1, ", 1);
    std::fs::write(bench.path("wet/config.json"), wet).expect("written");
    std::fs::write(bench.path("misshapen/config.json"), config).expect("written");
    for file in ["preprocessor_config.json", "model.safetensors"] {
        let golden = tests(&format!("goldens/beit-tiny/{file}"));
        std::fs::copy(golden, bench.path("misshapen").join(file)).expect("copied");
    }
    for file in ["config.json", "model.safetensors"] {
        let golden = tests(&format!("goldens/beit-tiny/{file}"));
        std::fs::copy(golden, bench.path("low").join(file)).expect("copied");
    }
    let low = r#"{"do_resize": true, "size": {"height": 4, "width": 200}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;
    std::fs::write(bench.path("low/preprocessor_config.json"), low).expect("written");
    for (more, said) in [
        ("epocs = 3", &["c.toml", "variant `scratch`", "`epocs`", "accumulation_steps"][..]),
        ("epochs = 0", &["variant `scratch`", "--epochs"]),
        ("[[variant]]\nname = 'gone'\nmodel = 'nowhere'", &["variant `gone`", "nowhere"]),
        ("[[variant]]\nname = 'empty'\nmodel = 'bare'", &["variant `empty`", "preprocessor_config.json"]),
        ("[[variant]]\nname = 'odd'\nmodel = 'misshapen'", &["variant `odd`", "shape", "asks for"]),
        ("[[variant]]\nname = 'low'\nmodel = 'low'", &["variant `low`", "4 × 200", "a patch of 8"]),
        (
            "[[variant]]\nname = 'wet'\nmodel = 'wet'\ninit = 'random'\nmethod = 'full'",
            &["variant `wet`", "hidden_dropout_prob"],
        ),
        (
            "[[variant]]\nname = 'x'\nmodel = 'MODEL'\nlora_target = ['qery']",
            &["variant `x`", "qery", "query"],
        ),
    ] {
        bench.say(&format!("{TWO}{}", more.replace("MODEL", &tests("goldens/beit-tiny"))));
        let (code, _, err) = bench.run(&[]);
        assert_eq!(code, Some(1), "{err}");
        assert!(said.iter().all(|words| err.contains(words)), "{more}: {err}");
        assert!(!bench.path("out").exists(), "{err}");
    }
    bench.say(TWO);
    let text = std::fs::read_to_string(bench.path("c.toml")).expect("a file");
    std::fs::write(bench.path("c.toml"), text.replace("sign-digits/test", "sign-digits/tset"))
        .expect("written");
    let (code, _, err) = bench.run(&[]);
    assert!(code == Some(1) && err.contains("tset"), "{err}");
    assert!(!bench.path("out").exists());
}

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    let bench = Bench::new(&format!("{TWO}seeds = [1, 2]\n{}", lora()));
    let (code, out, err) = bench.run(&["--dry-run"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.matches("will be trained and measured").count(), 3, "{out}");
    assert!(
        out.contains("--seed=2") && out.contains("--lora-rank=4") && out.contains("scratch, lora"),
        "{out}"
    );
    assert!(!bench.path("out").exists());
}

#[test]
fn a_run_that_no_comparison_made_is_not_touched() {
    let bench = Bench::new(TWO);
    std::fs::create_dir_all(bench.path("out/scratch/merged")).expect("a folder");
    std::fs::write(bench.path("out/scratch/run.json"), "{\"state\": \"completed\"}").expect("written");
    let (code, _, err) = bench.run(&[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("scratch (not made by a comparison)") && err.contains("--overwrite"), "{err}");
    assert!(bench.path("out/scratch/run.json").exists() && !bench.path("out/comparison.md").exists());
}
