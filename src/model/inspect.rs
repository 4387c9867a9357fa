//! What a config amounts to (parameters, what LoRA would train, memory), and whether weights give the logits they should.
//!
//! Called by `featherlight inspect` and `featherlight verify`. Counting reads no weights and allocates none.

use super::adapter::check_targets;
use super::names::matches_target;
use super::{Adapter, AdapterConfig, Checkpoint, Classifier, Config, ModelError, ModelFolder, build};
use crate::nn::{HEAD, Initialization, Linear, ParameterError, Pass, ShapeSource, Source, Trainable, Weight};
use crate::ops::device::Placement;
use candle_core::Tensor;
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// The figures of a model.
pub struct Inspection {
    model: Box<dyn Classifier>,
    architecture: &'static str,
    labels: Vec<String>,
    parameters: usize,
    trainable: Option<usize>,
    adapter: Option<AdapterConfig>,
}

impl Inspection {
    /// Counts the parameters of a config.
    ///
    /// # Errors
    /// If the shapes cannot be laid out.
    pub fn of(config: &Config) -> Result<Self, ModelError> {
        let model = build(config, &ShapeSource, Trainable::None, &Placement::CPU)
            .map_err(|source| ModelError::Parameter { file: "config.json".into(), source })?;
        let parameters = model.parameters().iter().map(|parameter| parameter.tensor().elem_count()).sum();
        let architecture = config.architecture.name();
        let labels = config.labels.clone();
        Ok(Self { model, architecture, labels, parameters, trainable: None, adapter: None })
    }

    /// All parameters, adapters left out.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// What LoRA would train, or what an adapter trained; see [`Inspection::adapt`] and [`Inspection::attach`].
    pub fn trainable(&self) -> Option<usize> {
        self.trainable
    }

    /// Counts what LoRA of `rank` on the modules named `targets` would train, the head included.
    ///
    /// # Errors
    /// If a target matches no module; the message lists what there is.
    pub fn adapt(&mut self, rank: usize, targets: &[String]) -> Result<(), ModelError> {
        check_targets(&*self.model, targets)?;
        let linears = self.model.linears();
        let (head, blocks): (Vec<&Linear>, Vec<&Linear>) = linears.iter().partition(|l| l.name() == HEAD);
        let matches = |linear: &Linear, target: &String| matches_target(linear.name(), target);
        let low_rank = blocks
            .iter()
            .filter(|linear| targets.iter().any(|target| matches(linear, target)))
            .map(|linear| {
                let Weight::Dense(weight) = &linear.weight;
                rank * weight.tensor().dims().iter().sum::<usize>()
            });
        let head = head.iter().flat_map(|linear| linear.parameters()).map(|p| p.tensor().elem_count());
        self.trainable = Some(low_rank.chain(head).sum());
        Ok(())
    }

    /// Counts what `adapter` trained: its factors (and magnitudes), and the head where it brings one.
    ///
    /// # Errors
    /// If it does not fit the model: a tensor that belongs to no module, or has another shape.
    pub fn attach(&mut self, adapter: &Adapter) -> Result<(), ModelError> {
        adapter.attach(&mut *self.model, Trainable::None)?;
        // Not the tensors of the file: one may stand there under two names.
        let linears = self.model.linears();
        let factors = linears.iter().flat_map(|linear| linear.adapter_parameters());
        let head = linears.iter().filter(|linear| linear.name() == HEAD && adapter.has_head());
        let head = head.flat_map(|linear| linear.parameters());
        self.trainable = Some(factors.chain(head).map(|p| p.tensor().elem_count()).sum());
        self.adapter = Some(adapter.config().clone());
        Ok(())
    }

    /// The same figures for programs.
    pub fn to_json(&self) -> Value {
        let mut figures = json!({
            "architecture": self.architecture,
            "parameters": self.parameters,
            "weight_bytes": self.parameters * 4,
            "labels": self.labels,
        });
        if let (Some(trainable), Some(figures)) = (self.trainable, figures.as_object_mut()) {
            figures.insert("trainable_parameters".to_owned(), json!(trainable));
        }
        if let (Some(adapter), Some(figures)) = (&self.adapter, figures.as_object_mut()) {
            let AdapterConfig { rank, alpha, rank_stabilized, dora, targets, .. } = adapter;
            let adapter = json!({
                "rank": rank, "alpha": alpha, "rank_stabilized": rank_stabilized, "dora": dora, "targets": targets
            });
            figures.insert("adapter".to_owned(), adapter);
        }
        figures
    }
}

/// 304178888 → `304,178,888`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "architecture          {}", self.architecture)?;
        writeln!(f, "parameters            {}", grouped(self.parameters))?;
        if let Some(trainable) = self.trainable {
            let share = 100.0 * trainable as f64 / self.parameters as f64;
            writeln!(f, "trainable parameters  {} ({share:.2} % of the parameters)", grouped(trainable))?;
        }
        if let Some(AdapterConfig { rank, alpha, rank_stabilized, dora, targets, .. }) = &self.adapter {
            let kind = match (dora, rank_stabilized) {
                (false, false) => "LoRA",
                (false, true) => "rsLoRA",
                (true, false) => "DoRA",
                (true, true) => "DoRA with rsLoRA",
            };
            let targets = targets.join(", ");
            writeln!(f, "adapter               {kind}, rank {rank}, alpha {alpha}, targets {targets}")?;
        }
        writeln!(f, "weights in memory     {:.1} MiB (f32)", self.parameters as f64 * 4.0 / 1024.0 / 1024.0)?;
        let shown: Vec<&str> = self.labels.iter().take(10).map(String::as_str).collect();
        let more = if self.labels.len() > shown.len() { ", …" } else { "" };
        write!(f, "labels                {}: {}{more}", self.labels.len(), shown.join(", "))
    }
}

/// The largest difference between the logits of `expected` and those that the model gives at `placement` for its
/// `pixel_values`, its adapter merged; NaN where either is NaN.
///
/// # Errors
/// If the model cannot be loaded, or the file lacks a tensor or has one of another shape.
pub fn verify(folder: &ModelFolder, expected: &Path, placement: &Placement) -> Result<f32, ModelError> {
    let reference = Checkpoint::open_safetensors(expected)?;
    let damaged = |problem: String| ModelError::Damaged { file: expected.into(), problem };
    let tensor = |name: &str| {
        let shape = reference.shape(name).ok_or_else(|| damaged(format!("no tensor `{name}`")))?;
        let unreadable = |source: ParameterError| ModelError::Parameter { file: expected.into(), source };
        reference.tensor(name, &shape, Initialization::Constant(0.0)).map_err(unreadable)
    };
    let (pixel_values, want) = (tensor("pixel_values")?, tensor("logits")?);
    if pixel_values.elem_count() == 0 {
        return Err(damaged(format!("pixel_values have shape {:?}: no photo", pixel_values.dims())));
    }
    let model = folder.load_merged(placement)?;
    let logits =
        pixel_values.to_device(&placement.device).and_then(|values| model.forward(&values, &Pass::Eval));
    let logits = logits.map_err(|error| damaged(error.to_string()))?;
    if logits.dims() != want.dims() {
        return Err(damaged(format!(
            "logits have shape {:?}, the model gives {:?}",
            want.dims(),
            logits.dims()
        )));
    }
    let values = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>());
    let (found, want) = (values(&logits), values(&want));
    let (found, want) =
        found.and_then(|f| want.map(|w| (f, w))).map_err(|error| damaged(error.to_string()))?;
    let differences = found.iter().zip(&want).map(|(a, b)| (a - b).abs());
    Ok(differences
        .fold(0.0, |largest, d| if d.is_nan() || largest.is_nan() { f32::NAN } else { d.max(largest) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(name: &str) -> (Inspection, Config) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/configs").join(name);
        let config = Config::from_file(&folder.join("config.json")).expect("a config");
        let labels: Vec<String> = (0..200).map(|label| label.to_string()).collect();
        let config = config.with_labels(&labels);
        (Inspection::of(&config).expect("an inspection"), config)
    }

    /// transformers 5.23.0 and peft 0.21.2: the parameters with 200 labels, and what LoRA of rank 16 on queries and values
    /// trains, the head included.
    #[test]
    fn published_configurations_have_the_parameters_that_transformers_counts() {
        for (name, parameters, trainable) in [
            ("vit-base-224", 85_952_456, 743_624),
            ("vit-base-384", 86_244_296, 743_624),
            ("swin-base-224", 86_948_224, 975_048),
            ("swin-large-384", 195_505_916, 1_462_472),
            ("swinv2-base-192", 87_098_816, 975_048),
            ("swinv2-large-384", 195_510_332, 1_462_472),
            ("beit-large-384", 304_178_888, 1_777_864),
        ] {
            let (mut inspection, config) = published(name);
            assert_eq!(inspection.parameters(), parameters, "{name}");
            let targets = config.architecture.default_targets().map(str::to_owned);
            inspection.adapt(16, &targets).expect("known targets");
            assert_eq!(inspection.trainable(), Some(trainable), "{name}");
        }
    }

    #[test]
    fn an_adapter_counts_what_its_file_holds_and_must_fit_the_model() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let adapter = Adapter::open(&goldens.join("beit-tiny-lora")).expect("an adapter");
        let folder = ModelFolder::open(&goldens.join("beit-tiny")).expect("its base");
        let mut inspection = Inspection::of(folder.config()).expect("an inspection");
        inspection.attach(&adapter).expect("it fits");
        // The same by the rule that needs no file, since this adapter saves its head.
        let mut by_rule = Inspection::of(folder.config()).expect("an inspection");
        by_rule.adapt(adapter.config().rank, &adapter.config().targets).expect("known targets");
        assert_eq!(inspection.trainable(), by_rule.trainable());
        assert_eq!(inspection.to_json()["adapter"]["rank"], adapter.config().rank);
        assert!(inspection.to_string().contains("targets q_proj, v_proj"), "{inspection}");
        assert!(published("beit-large-384").0.attach(&adapter).is_err());
    }

    #[test]
    fn a_target_that_matches_nothing_lists_what_there_is() {
        for (name, known) in [
            ("beit-large-384", "attention.attention.query"),
            ("vit-base-224", "attention.attention.query"),
            ("swin-base-224", "downsample.reduction"),
            ("swinv2-base-192", "attention.self.continuous_position_bias_mlp.0"),
        ] {
            let mut inspection = published(name).0;
            let error = inspection.adapt(16, &["qery".to_owned()]).expect_err("no such module").to_string();
            assert!(error.contains("qery") && error.contains(known), "{name}: {error}");
        }
    }

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([7, 1234, 304_178_888].map(grouped), ["7", "1,234", "304,178,888"]);
    }
}
