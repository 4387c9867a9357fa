//! The runs that a plan comes to, each checked as far as it can be without training: a slip in the sixth variant is said
//! before the first begins.

use super::flags::FitCommand;
use super::plan::{Plan, Variant};
use crate::dataset::{Dataset, DatasetError, LabelSpace};
use crate::fingerprint;
use crate::settings::{FitSettings, Validation};
use crate::split::{SplitError, stratified};
use crate::start::{StartError, StartingModel};
use featherlight::model::{ModelError, ModelFolder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// One training and the measurement after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The variant, an index into [`Plan::variants`].
    pub variant: usize,
    /// What people call it: the variant's name, and the seed where it has several.
    pub name: String,
    /// Its folder, within the comparison's.
    pub folder: PathBuf,
    /// The words after `fit`.
    pub words: Vec<OsString>,
    /// What they mean.
    pub settings: FitSettings,
    /// What the training is made of: every setting, photos, model. As long as it is the same, the training need not be repeated.
    pub training: Value,
    /// The same of the measurement.
    pub evaluation: Value,
}

/// A plan that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The command line of a variant.
    #[error("variant `{variant}`: {problem}")]
    Settings {
        /// Its name.
        variant: String,
        /// The words of `fit`.
        problem: String,
    },
    /// The model of a variant.
    #[error("variant `{variant}`: {source}")]
    Model {
        /// Its name.
        variant: String,
        /// What is wrong with it.
        source: StartError,
    },
    /// A model folder with a config and nothing else.
    #[error("variant `{variant}`: {}: no weights (.safetensors or .bin); init = \"random\" needs none", folder.display())]
    NoWeights {
        /// Its name.
        variant: String,
        /// The model folder.
        folder: PathBuf,
    },
    /// The photos.
    #[error(transparent)]
    Photos(#[from] DatasetError),
    /// No photos can be held back.
    #[error("`val_split`: {0}")]
    Split(#[from] SplitError),
    /// A file that cannot be looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Two names for one thing.
    #[error(
        "variant `{second}` is the same as `{first}`: leave it out, and name `{first}` in each [[table]] that shows it"
    )]
    Same {
        /// The name that comes first.
        first: String,
        /// The other.
        second: String,
    },
}

/// The jobs of `plan` in its order, for a comparison in `output`. Paths and models are looked at: they must be there.
///
/// # Errors
/// See [`JobError`].
pub fn jobs(plan: &Plan, output: &Path, fit: &FitCommand) -> Result<Vec<Job>, JobError> {
    let mut jobs = command_lines(plan, output, fit)?;
    let mut models: HashMap<PathBuf, String> = HashMap::new();
    let mut photos: Option<Photos> = None;
    for job in &mut jobs {
        let variant = || plan.variants[job.variant].name.clone();
        let photos = match &mut photos {
            Some(photos) => photos,
            none => none.insert(Photos::open(plan, &job.settings)?),
        };
        let checked = ModelFolder::open(&job.settings.model)
            .map_err(StartError::from)
            .and_then(|folder| StartingModel::check(&folder, &photos.labels, &job.settings));
        checked.map_err(|source| match source {
            StartError::Model(ModelError::NoWeights { folder }) => {
                JobError::NoWeights { variant: variant(), folder }
            }
            source => JobError::Model { variant: variant(), source },
        })?;
        let model = match models.get(&job.settings.model) {
            Some(model) => model.clone(),
            None => fingerprint::model(&job.settings.model)?,
        };
        models.insert(job.settings.model.clone(), model.clone());
        job.training["photos"] = json!(photos.training);
        job.training["validation_photos"] = json!(photos.validation);
        job.training["model_files"] = json!(model);
        job.evaluation["test_photos"] = json!(photos.test);
    }
    Ok(jobs)
}

/// The jobs as far as the file alone tells: their command lines mean something.
///
/// # Errors
/// If one does not, or two are the same.
pub fn command_lines(plan: &Plan, output: &Path, fit: &FitCommand) -> Result<Vec<Job>, JobError> {
    let mut jobs: Vec<Job> = Vec::new();
    for (at, variant) in plan.variants.iter().enumerate() {
        let folder = output.join(&variant.name);
        if variant.seeds.is_empty() {
            jobs.push(job(plan, at, None, folder, fit)?);
        } else {
            for &seed in &variant.seeds {
                jobs.push(job(plan, at, Some(seed), folder.join(format!("seed-{seed}")), fit)?);
            }
        }
    }
    for (at, job) in jobs.iter().enumerate() {
        let same = |other: &&Job| other.variant != job.variant && other.training == job.training;
        if let Some(first) = jobs[..at].iter().find(same) {
            return Err(JobError::Same {
                first: plan.variants[first.variant].name.clone(),
                second: plan.variants[job.variant].name.clone(),
            });
        }
    }
    Ok(jobs)
}

fn job(
    plan: &Plan,
    at: usize,
    seed: Option<u64>,
    folder: PathBuf,
    fit: &FitCommand,
) -> Result<Job, JobError> {
    let variant = &plan.variants[at];
    let mut words = fit.words(&variant.settings, &plan.root);
    for (key, value) in &plan.photos {
        let mut word = OsString::from(format!("--{}=", key.replace('_', "-")));
        // An absolute path takes the root's place; a share is no path.
        if *key == "val_split" {
            word.push(value);
        } else {
            word.push(plan.root.join(value));
        }
        words.push(word);
    }
    words.extend(seed.map(|seed| format!("--seed={seed}").into()));
    let mut output = OsString::from("--output=");
    output.push(&folder);
    // Whether an earlier run may be replaced is decided before `fit` is started.
    words.extend([output, "--overwrite".into()]);
    let failed = |problem| JobError::Settings { variant: variant.name.clone(), problem };
    let settings = (fit.parse)(&words).map_err(failed)?;
    let name = match seed {
        Some(seed) => format!("{}, seed {seed}", variant.name),
        None => variant.name.clone(),
    };
    let training = json!({ "settings": recorded(plan, variant, &settings) });
    let evaluation = json!({ "test": plan.test, "batch_size": plan.evaluate_batch_size });
    Ok(Job { variant: at, name, folder, words, settings, training, evaluation })
}

/// Every setting that a run's outcome depends on; paths as the file has them, so that it can be moved with what it names.
fn recorded(plan: &Plan, variant: &Variant, settings: &FitSettings) -> Value {
    let mut json = settings.to_json();
    let Some(fields) = json.as_object_mut() else { return json };
    fields.remove("output");
    // Another machine has another number of threads, and they make no other model.
    if !variant.settings.contains_key("loader_threads") {
        fields.remove("loader_threads");
    }
    for (key, text) in plan.photos.iter().filter(|(key, _)| *key != "val_split") {
        fields.insert((*key).to_owned(), json!(text));
    }
    if let Some(model) = variant.settings.get("model") {
        fields.insert("model".to_owned(), json!(super::flags::text(model)));
    }
    json
}

/// The fingerprints of the photos, which are the same for every variant.
struct Photos {
    labels: Vec<String>,
    training: String,
    validation: Option<String>,
    test: Option<String>,
}

impl Photos {
    fn open(plan: &Plan, settings: &FitSettings) -> Result<Self, JobError> {
        let root = settings.image_root.as_deref();
        let training = Dataset::open(&settings.data, root, LabelSpace::Found { model: &[] })?;
        let other = |path: &Path| -> Result<String, JobError> {
            let root = root.filter(|_| path.is_file());
            Ok(fingerprint::photos(&Dataset::open(path, root, LabelSpace::Known(&training.labels))?)?)
        };
        let validation = match &settings.validation {
            Validation::Set(path) => Some(other(path)?),
            Validation::Split(share) => {
                // Which photos it holds back is each run's; whether it can hold back any is not.
                stratified(&training, *share, settings.trainer.randomness)?;
                None
            }
        };
        let test = plan.test.as_ref().map(|test| other(&plan.root.join(test))).transpose()?;
        let photos = fingerprint::photos(&training)?;
        Ok(Self { labels: training.labels, training: photos, validation, test })
    }
}
