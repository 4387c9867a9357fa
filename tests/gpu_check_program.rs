//! `scripts/gpu-check` on the CPU with tiny models, from the programs just built: so that it is not found broken on the day a
//! GPU is there. PyTorch stays out of it; `tests/slow/gpu_check.py` brings it.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;

use program::{PROGRAM, Said, data, quiet, run};
use serde_json::Value;
use std::path::Path;

const PARTS: [&str; 6] = ["goldens", "inference", "training", "ceiling", "profile", "service"];

/// Runs the check. PyTorch is hidden from it, so that the same is tested where there is one.
fn check(binaries: &Path, output: &Path, more: &[&str], failing: Option<&str>) -> (Said, Value, String) {
    let hidden = tempfile::tempdir().expect("a folder");
    std::fs::write(hidden.path().join("torch.py"), "raise ImportError('hidden')").expect("written");
    let mut command = quiet(Path::new("python3"), &[]);
    command.env("PYTHONPATH", hidden.path()).arg(data("../scripts/gpu-check")).args([
        "--device",
        "cpu",
        "--quick",
        "--binaries",
    ]);
    command.arg(binaries).arg("--output").arg(output).args(more);
    if let Some(part) = failing {
        command.env("GPU_CHECK_FAIL", part);
    }
    let said = run(&mut command);
    let read = |name: &str| {
        std::fs::read_to_string(output.join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", said.err))
    };
    let report = serde_json::from_str(&read("gpu-report.json")).expect("JSON");
    let tables = read("gpu-report.md");
    (said, report, tables)
}

fn built() -> &'static Path {
    Path::new(PROGRAM).parent().expect("the folder of the programs")
}

fn positive(value: &Value, what: &str) {
    assert!(value.as_f64().is_some_and(|value| value.is_finite() && value > 0.0), "{what}: {value}");
}

#[test]
fn every_part_runs_without_a_gpu_and_without_pytorch() {
    let folder = tempfile::tempdir().expect("a folder");
    let (said, report, tables) = check(built(), folder.path(), &[], None);
    let part = |name: &str| &report["parts"][name];
    let status = |name: &str| part(name)["status"].as_str().unwrap_or_default().to_owned();
    for name in ["goldens", "inference", "training", "profile", "service"] {
        assert_eq!(status(name), "ok", "{}\n{tables}", said.err);
    }
    // What is not there is never passed.
    assert_eq!(status("ceiling"), "absent", "{tables}");
    assert_eq!(said.code, Some(0), "{tables}");
    for name in PARTS {
        assert!(tables.contains(&format!("| {name} |")), "{tables}");
    }

    let models = part("goldens")["figures"]["models"].as_array().expect("models");
    let verdict = |reference: &str, dtype: &str| {
        let row = models.iter().find(|row| row["reference"] == reference && row["dtype"] == dtype);
        row.map(|row| row["verdict"].clone()).unwrap_or_default()
    };
    for reference in ["beit-tiny", "beit-tiny-bin", "beit-tiny-timm", "beit-tiny-lora", "beit-tiny-rslora"] {
        assert_eq!(verdict(reference, "f32"), "same", "{tables}");
    }
    let rows = part("inference")["figures"]["models"][0]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 2);
    for row in rows {
        positive(&row["ours"]["photos_per_second"]["median"], "photos a second");
        assert!(row.get("pytorch").is_none(), "{row}");
    }
    let peer = part("inference")["figures"]["peer"]["absent"].as_str().unwrap_or_default();
    assert!(peer.contains("torch: hidden"), "{peer}");
    for row in part("training")["figures"]["rows"].as_array().expect("rows") {
        positive(&row["ours"]["photos_per_second"]["median"], "photos a second");
        positive(&row["ours_memory"]["peak_memory_bytes"], "memory");
    }
    for model in part("service")["figures"]["models"].as_array().expect("models") {
        assert_eq!(model["exit_status"], 0, "{model}");
        let clients = model["rows"].as_array().expect("rows").iter().map(|row| row["concurrency"].as_u64());
        assert!(clients.eq([Some(1), Some(16), Some(64)]), "{model}");
    }
}

#[test]
fn a_part_fails_alone_and_calls_add_up_to_one_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let nothing = tempfile::tempdir().expect("a folder without programs");
    let (said, report, tables) = check(nothing.path(), folder.path(), &["--parts", "training"], None);
    assert_eq!(said.code, Some(1), "{tables}");
    assert!(report["parts"]["training"].to_string().contains("no program `featherlight-train`"), "{tables}");

    let (said, report, tables) =
        check(built(), folder.path(), &["--parts", "inference,profile"], Some("profile"));
    assert_eq!(said.code, Some(1), "{tables}");
    let status = |name: &str| report["parts"][name]["status"].clone();
    assert_eq!([status("inference"), status("profile"), status("training")], ["ok", "failed", "failed"]);
    assert!(tables.contains("GPU_CHECK_FAIL") && tables.contains("| service | not run |"), "{tables}");

    let (said, report, _) =
        check(built(), folder.path(), &["--parts", "goldens", "--budget-seconds", "1"], None);
    assert_eq!((report["parts"]["goldens"]["status"].as_str(), said.code), (Some("incomplete"), Some(1)));

    let mut unknown = quiet(Path::new("python3"), &[]);
    let said = run(unknown.arg(data("../scripts/gpu-check")).args(["--parts", "everything"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("everything") && said.err.contains("goldens"), "{}", said.err);
}
