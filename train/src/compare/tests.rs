//! What the tests of this room share, and the tests of plans.

use super::figures::{JobOutcome, Report};
use super::flags::tests::some_flags;
use super::jobs::Job;
use super::plan::Plan;
use super::result::{MeasuredOn, RunResult};
use crate::augment::Augmentation;
use crate::loader::Cache;
use crate::settings::{FitSettings, Method, StartingWeights, Validation};
use crate::trainer::TrainerSettings;
use candle_core::DType;
use featherlight::ops::device::{DeviceInfo, FrozenFormat, Precision};
use featherlight::randomness::Randomness;
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// A job of which nothing is done.
pub fn a_job(name: &str) -> Job {
    Job {
        variant: 0,
        name: name.to_owned(),
        folder: PathBuf::from(name),
        words: Vec::new(),
        settings: FitSettings {
            data: "photos".into(),
            image_root: None,
            validation: Validation::Split(0.1),
            model: "model".into(),
            starting_weights: StartingWeights::Pretrained,
            output: name.into(),
            overwrite: true,
            resume: false,
            load_best_model_at_end: false,
            method: Method::Head,
            batch_size: NonZeroUsize::MIN,
            find_batch_size: false,
            augmentation: Augmentation::Plain,
            trainer: TrainerSettings {
                epochs: 2,
                accumulation_steps: NonZeroUsize::MIN,
                learning_rate: 1e-3,
                warmup_ratio: 0.0,
                randomness: Randomness::new(1),
                ..TrainerSettings::default()
            },
            loader_threads: NonZeroUsize::MIN,
            tensorboard: false,
            cache: Cache::default(),
            save_dtype: DType::F32,
            device: DeviceInfo::Cpu,
            precision: Precision::F32,
            frozen: FrozenFormat::Compute,
        },
        training: json!({ "settings": { "epochs": 2, "model": "m" }, "photos": "150 photos" }),
        evaluation: json!({ "test": "test", "batch_size": 8 }),
    }
}

/// The figures of a run with that accuracy.
pub fn a_result(top1: f64) -> RunResult {
    RunResult {
        training: json!({}),
        evaluation: json!({ "test": "test", "batch_size": 8 }),
        version: "0".to_owned(),
        architecture: "beit".to_owned(),
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        threads: 2,
        measured_on: MeasuredOn::Test,
        photos: 30,
        top1,
        top5: 1.0,
        loss: Some(0.5),
        parameters: 10_000,
        trainable_parameters: 1_000,
        peak_memory_bytes: Some(100 << 20),
        peak_device_memory_bytes: None,
        training_seconds: 10.0,
        training_images_per_second: Some(20.0),
        inference_images_per_second: Some(40.0),
        inference_batch_size: Some(8),
    }
}

/// Two seeds of a small variant, a large one, and one that failed.
pub fn a_report() -> Report {
    let text = "data = 'd'\ntest = 't'\ntitle = 'Sizes'\n[defaults]\nmodel = 'm'\n\
                [[variant]]\nname = 'small'\nseeds = [1, 2]\n[[variant]]\nname = 'large'\nepochs = 3\n[[variant]]\nname = 'broken'";
    let plan = Plan::parse(text, PathBuf::new(), &some_flags()).unwrap();
    let job = |variant: usize, name: &str| Job { variant, ..a_job(name) };
    let jobs = [job(0, "small, seed 1"), job(0, "small, seed 2"), job(1, "large"), job(2, "broken")];
    let large = RunResult { training_seconds: 100.0, trainable_parameters: 2_000, ..a_result(0.91) };
    let finished = |result| JobOutcome::Finished(Box::new(result));
    let outcomes = [
        finished(a_result(0.45)),
        finished(a_result(0.55)),
        finished(large),
        JobOutcome::Failed("error: out of <memory> | really".to_owned()),
    ];
    Report::new(&plan, &jobs, &outcomes)
}

fn plan(text: &str) -> Result<Plan, String> {
    Plan::parse(text, PathBuf::from("/root"), &some_flags()).map_err(|problem| problem.to_string())
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.variants.iter().map(|variant| variant.name.as_str()).collect()
}

#[test]
fn variants_have_the_defaults_of_the_file_and_their_own_settings() {
    let plan = plan(
        "data = 'd'\n[defaults]\nmodel = 'm'\nepochs = 5\nlora-rank = 4\nseed = 7\n\
         [[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\nmethod = 'full'\nepochs = 2\nseeds = [1, 2]",
    )
    .unwrap();
    let settings: Vec<String> = plan
        .variants
        .iter()
        .map(|variant| {
            some_flags()
                .words(&variant.settings, "/".as_ref())
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(settings[0], "--model=/m --epochs=5 --lora-rank=4 --seed=7");
    assert_eq!(settings[1], "--model=/m --epochs=2 --method=full");
    assert_eq!((&plan.variants[0].seeds, &plan.variants[1].seeds), (&vec![], &vec![1, 2]));
    assert_eq!((plan.tables.len(), plan.tables[0].variants.as_slice()), (1, &[0, 1][..]));
}

#[test]
fn every_combination_of_a_grid_is_a_variant_with_a_name_that_says_which() {
    let plan = plan(
        "data = 'd'\n[[grid]]\nname = 'g'\nmodel = ['m/vit', 'm/beit/']\nepochs = 3\nlearning_rate = [1e-3, 0.01]\n\
         [[grid]]\nmodel = 'm'\nno_augment = [true, false]\n[[grid]]\nmodel = 'm'\nlora_target = ['query', ['query', 'value']]",
    )
    .unwrap();
    let wanted = [
        "g-vit-learning_rate=0.001",
        "g-vit-learning_rate=0.01",
        "g-beit-learning_rate=0.001",
        "g-beit-learning_rate=0.01",
        "no_augment=true",
        "no_augment=false",
        "lora_target=query",
        "lora_target=query,value",
    ];
    assert_eq!(names(&plan), wanted);
    assert!(plan.variants[..4].iter().all(|variant| variant.settings["epochs"].as_integer() == Some(3)));
}

#[test]
fn a_fixed_setting_of_a_grid_gives_way_to_a_choice_that_contradicts_it() {
    let plan = plan("data = 'd'\n[[grid]]\nmodel = 'm'\nlora_rank = 4\nmethod = ['lora', 'full']").unwrap();
    assert!(plan.variants[0].settings.contains_key("lora_rank"));
    assert!(!plan.variants[1].settings.contains_key("lora_rank"));
}

#[test]
fn combinations_in_which_a_setting_does_not_apply_fall_together() {
    let plan =
        plan("data = 'd'\n[[grid]]\nmodel = 'm'\nmethod = ['lora', 'full']\nlora_rank = [2, 4]").unwrap();
    assert_eq!(names(&plan), ["method=lora-lora_rank=2", "method=lora-lora_rank=4", "method=full"]);
}

#[test]
fn models_of_one_folder_name_are_told_apart_by_the_folders_above() {
    let plan = plan("data = 'd'\n[[grid]]\nmodel = ['run1/merged', 'run2/merged/', 'x/base']").unwrap();
    assert_eq!(names(&plan), ["run1-merged", "run2-merged", "x-base"]);
}

#[test]
fn tables_name_variants_and_grids_and_what_is_in_none_is_shown_at_the_end() {
    let plan = plan(
        "data = 'd'\n[defaults]\nmodel = 'm'\n[[variant]]\nname = 'base'\n[[variant]]\nname = 'lonely'\nepochs = 1\n\
         [[grid]]\nname = 'rank'\nlora_rank = [1, 2]\n\
         [[table]]\ntitle = 'Ranks'\nvariants = ['rank', 'base']\n[[table]]\ntitle = 'Two'\nvariants = ['base', 'rank-lora_rank=2', 'base']",
    )
    .unwrap();
    let tables: Vec<(&str, &[usize])> =
        plan.tables.iter().map(|table| (table.title.as_str(), table.variants.as_slice())).collect();
    assert_eq!(tables, [("Ranks", &[2, 3, 0][..]), ("Two", &[0, 3]), ("Other variants", &[1])]);
}

#[test]
fn a_mistake_is_told_with_its_place_its_key_and_what_is_allowed() {
    let variant = "data = 'd'\n[[variant]]\nname = 'a'\nmodel = 'm'\n";
    for (text, said) in [
        ("epocs = 3", &["variant `a`", "unknown key `epocs`", "epochs"][..]),
        ("epochs = true", &["variant `a`", "`epochs` is true", "a number or a text"]),
        ("epochs = [1, 2]", &["`epochs` is a list", "[[grid]]"]),
        ("no_augment = 'yes'", &["`no_augment` is the text \"yes\"", "true or false"]),
        ("lora_target = []", &["`lora_target` is an empty list"]),
        ("lora_target = [true]", &["`lora_target` is a list", "a text or a list"]),
        ("data = 'other'", &["variant `a`", "top of the file"]),
        ("seeds = []", &["`seeds` is an empty list"]),
        ("seeds = [1, -2]", &["from 0 up"]),
        ("seeds = [1, 1]", &["holds 1 twice"]),
        ("seeds = [1]\nseed = 2", &["`seed` and `seeds`"]),
        ("lora_rank = 1\nlora-rank = 2", &["`lora_rank` is there twice"]),
        ("[[variant]]\nname = 'A'\nmodel = 'm'", &["variant `A`", "`a` is there already"]),
        ("[[variant]]\nname = 'b/c'\nmodel = 'm'", &["`b/c` cannot be used"]),
        ("[[variant]]\nname = '..'\nmodel = 'm'", &["a point"]),
        ("[[variant]]\nname = 'comparison.csv'\nmodel = 'm'", &["a file of the comparison itself"]),
        ("[[variant]]\nname = 'compare.lock'\nmodel = 'm'", &["a file of the comparison itself"]),
        ("[[variant]]\nname = 'b'", &["variant `b`", "`model` is missing"]),
        ("[[variant]]\nmodel = 'm'", &["[[variant]] number 2", "`name` is missing"]),
        ("[[grid]]\nname = 'g'\nmodel = 'm'", &["grid `g`", "a single combination is a [[variant]]"]),
        ("[[grid]]\nname = 'g'\nmodel = 'm'\nepochs = []", &["grid `g`", "`epochs` is an empty list"]),
        ("[[grid]]\nname = 'a'\nmodel = 'm'\nepochs = [1, 2]", &["grid `a`", "there already"]),
        ("[[grid]]\nname = 'g'\nmodel = 'm'\nepochs = [2, 2]", &["grid `g`", "`epochs` holds 2 twice"]),
        (
            "[[grid]]\nname = 'g'\nmodel = 'm'\nmethod = 'full'\nlora_rank = [2, 4]",
            &["grid `g`", "`lora_rank` is a list", "no combination"],
        ),
        ("[[grid]]\nmodel = ['x/m n', 'x/m_n']", &["[[grid]] number 1", "`m_n` is there already"]),
        ("[[table]]\nvariants = ['a']", &["[[table]] number 1", "`title` is missing"]),
        ("[[table]]\ntitle = 'T'\nvariants = ['b']", &["table `T`", "is called `b`", "there are a"]),
        ("[[table]]\ntitle = 'T'\nvariants = []", &["table `T`", "an empty list"]),
        ("[[table]]\ntitle = 'T'\nrows = ['a']", &["table `T`", "unknown key `rows`", "title, variants"]),
    ] {
        let error = plan(&format!("{variant}{text}")).unwrap_err();
        assert!(said.iter().all(|words| error.contains(words)), "{text}: {error}");
    }
    for (text, said) in [
        ("title = 'x'", "nothing to compare"),
        ("[[variant]]\nname = 'a'\nmodel = 'm'", "`data` is missing"),
        ("data = 'd'\nepochs = 3\n[[variant]]\nname = 'a'\nmodel = 'm'", "unknown key `epochs`"),
        ("data = 3\n[[variant]]\nname = 'a'\nmodel = 'm'", "`data` is the number 3"),
        ("data = 'd'\nval_split = 1.5\n[[variant]]\nname = 'a'\nmodel = 'm'", "up to, but not, 1"),
        ("data = 'd'\nval_split = 0\n[[variant]]\nname = 'a'\nmodel = 'm'", "no photos to measure on"),
        (
            "data = 'd'\nval = 'v'\nval_split = 0.1\n[[variant]]\nname = 'a'\nmodel = 'm'",
            "`val` and `val_split`",
        ),
        ("data = 'd'\nevaluate_batch_size = 0\n[[variant]]\nname = 'a'\nmodel = 'm'", "from 1 up"),
        ("data = 'd'\ndefaults = 3\n[[variant]]\nname = 'a'\nmodel = 'm'", "a table, [defaults]"),
        ("data = 'd'\nvariant = 3", "double brackets"),
        ("data = ", "TOML"),
    ] {
        let error = plan(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn settings_that_differ_within_a_table_are_shown_in_it() {
    let report = a_report();
    assert_eq!(
        report.tables[0].rows.iter().map(|(_, settings)| settings.as_str()).collect::<Vec<_>>(),
        ["", "", ""]
    );
    let mut plan = plan("data = 'd'\n[[grid]]\nmodel = 'm'\nepochs = [1, 2]").unwrap();
    plan.title = "T".to_owned();
    let jobs = [0, 1].map(|at| {
        let mut job = Job { variant: at, ..a_job(&plan.variants[at].name) };
        job.training["settings"] = json!({ "epochs": at + 1, "model": "m", "augment": at == 0, "crop_scale": if at == 0 { json!(1) } else { json!(null) } });
        job
    });
    let report = Report::new(&plan, &jobs, &[JobOutcome::Waiting, JobOutcome::Waiting]);
    let shown: Vec<&str> = report.tables[0].rows.iter().map(|(_, settings)| settings.as_str()).collect();
    assert_eq!(shown, ["epochs 1, augment yes", "epochs 2, augment no"]);
}
