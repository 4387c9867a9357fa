//! What ends a run, or is left out of it.

use super::*;

#[test]
fn a_photo_that_cannot_be_read_is_left_out_and_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    for class in ["0", "1"] {
        std::fs::create_dir_all(data.join(class)).expect("a folder");
        for entry in std::fs::read_dir(photos("train").join(class)).expect("photos") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), data.join(class).join(entry.file_name())).expect("a copy");
        }
    }
    std::fs::write(data.join("1/broken.jpg"), b"\xff\xd8\xff no photo").expect("written");
    let output = folder.path().join("out");
    let mut settings = from_scratch(bare_config(folder.path()), output.clone());
    settings.data = data;
    settings.validation = Validation::Split(0.0);
    let summary = trained(&settings).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((summary.unreadable, summary.evaluation), (1, None));
    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("run.json")).expect("run.json"))
            .expect("JSON");
    assert!(run["unreadable_photos"][0]["file"].as_str().expect("a file").ends_with("1/broken.jpg"));
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_the_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = from_scratch(bare_config(folder.path()), folder.path().join("out"));
    settings.trainer.learning_rate = 1e30;
    settings.trainer.warmup_ratio = 0.0;
    let error = trained(&settings).expect_err("diverged");
    assert!(matches!(error, FitError::Train(TrainError::Diverged { step: 2.., .. })), "{error}");
    assert!(error.to_string().contains("--learning-rate"), "{error}");
}

#[test]
fn weights_that_leave_the_numbers_in_the_last_step_replace_nothing_and_the_record_says_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let mut settings = from_scratch(bare_config(folder.path()), output.clone());
    settings.validation = Validation::Split(0.0);
    settings.trainer.epochs = 1;
    settings.trainer.accumulation_steps = number(100); // one step in all
    settings.trainer.learning_rate = 1e39;
    settings.trainer.warmup_ratio = 0.0;
    std::fs::create_dir_all(output.join("merged")).expect("a folder");
    std::fs::write(output.join("merged/model.safetensors"), "of an earlier run").expect("written");
    settings.overwrite = true;
    let error = trained(&settings).expect_err("exploded");
    assert!(matches!(error, FitError::Train(TrainError::Diverged { .. })), "{error}");
    let kept = std::fs::read_to_string(output.join("merged/model.safetensors")).expect("still there");
    assert_eq!(kept, "of an earlier run");
    let run = std::fs::read_to_string(output.join("run.json")).expect("run.json");
    let run: Value = serde_json::from_str(&run).expect("JSON");
    assert_eq!(run["state"], "failed");
}

#[test]
fn a_model_inside_the_output_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = from_scratch(bare_config(folder.path()), folder.path().to_owned());
    settings.overwrite = true;
    let error = trained(&settings).expect_err("refused");
    assert!(matches!(error, FitError::ModelInOutput(_)), "{error}");
}

#[test]
fn a_model_that_cannot_be_trained_as_asked_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let refused = |settings: FitSettings, named: &str| {
        let error = trained(&settings).expect_err("refused").to_string();
        assert!(error.contains(named), "{error}");
        assert!(!output.exists(), "{error}");
    };
    let mut unknown_target = lora(output.clone());
    if let Method::Lora(adapter) = &mut unknown_target.method {
        adapter.targets = vec!["qery".to_owned()];
    }
    refused(unknown_target, "attention.attention.query");

    let start = bare_config(folder.path());
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(start.join("config.json")).expect("a config"))
            .expect("JSON");
    config["hidden_dropout_prob"] = json!(0.1);
    std::fs::write(start.join("config.json"), config.to_string()).expect("written");
    refused(from_scratch(start, output.clone()), "hidden_dropout_prob");

    let mut nothing_there = lora(output.clone());
    nothing_there.data = folder.path().join("no-such-folder");
    refused(nothing_there, "no-such-folder");
}

#[test]
fn a_run_is_not_gone_on_with_while_another_is_at_work_in_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = from_scratch(bare_config(folder.path()), folder.path().join("run"));
    run(&settings);
    let resumed = FitSettings { resume: true, ..settings };
    let lock = Output::lock(&resumed.output).unwrap_or_else(|error| panic!("{error}"));
    let error = trained(&resumed).expect_err("at work").to_string();
    assert!(error.contains("another run is at work"), "{error}");
    drop(lock);
    run(&resumed);
}
