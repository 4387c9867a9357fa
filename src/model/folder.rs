//! A model folder: config, processor and weights, put together.
//!
//! Everything that runs or inspects a model opens it here: from a folder on disk, or from files compiled into a program.

use super::adapter::{Adapter, merge};
use super::bare::BareSource;
use super::checkpoint::Shapes;
use super::in_memory::transfer;
use super::replaced_head::{Head, KnownLabels, ReplacedHead};
use super::timm::TimmSource;
use super::{
    Architecture, Checkpoint, Classifier, Config, ModelError, beit, clip, swin, swin_v2, vit, weight_files,
};
use crate::image::Processor;
use crate::nn::{Builder, HEAD, ParameterError, RandomSource, ShapeSource, Source, Trainable};
use crate::ops::device::Placement;
use crate::randomness::Randomness;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Name of the settings of photo preparation in a model folder.
const PROCESSOR: &str = "preprocessor_config.json";
/// Name of the weights in a model folder, where they are one safetensors file.
const WEIGHTS: &str = weight_files::SINGLE;

/// How the names end of tensors that a model computes by itself.
const BUFFERS: [&str; 4] = ["relative_position_index", "relative_coords_table", "position_ids", "attn_mask"];

/// An opened model folder, with the adapter that goes on it; the weights are read by [`ModelFolder::load`].
pub struct ModelFolder {
    /// For messages too: files in memory are named as if they lay in a folder of the model's name.
    path: PathBuf,
    files: Files,
    config: Config,
    adapter: Option<Adapter>,
}

enum Files {
    /// In the folder at `path`.
    OnDisk,
    InMemory(ModelFiles),
}

/// The files of a model folder, held in memory.
#[derive(Clone, Copy, Debug)]
pub struct ModelFiles {
    /// The model's name.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `preprocessor_config.json`.
    pub processor: &'static [u8],
    /// `model.safetensors`.
    pub weights: &'static [u8],
}

impl ModelFolder {
    /// Reads `config.json` of the folder.
    ///
    /// # Errors
    /// If it is missing or names what is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let config = Config::from_file(&path.join("config.json"))?;
        Ok(Self { path: path.into(), files: Files::OnDisk, config, adapter: None })
    }

    /// The same for files in memory. Their bytes stay where they are: only a tensor that is read is copied.
    ///
    /// # Errors
    /// If the config is damaged or names what is not supported.
    pub fn from_files(files: ModelFiles) -> Result<Self, ModelError> {
        let path = PathBuf::from(files.name);
        let file = path.join("config.json");
        let config = Config::from_json(parse(&file, files.config)?, &file)?;
        Ok(Self { path, files: Files::InMemory(files), config, adapter: None })
    }

    /// What people call the model: the folder's own name.
    pub fn name(&self) -> String {
        // A link keeps its own name, wherever it leads; `.` and `..` have none.
        let path = match &self.files {
            Files::OnDisk if self.path.file_name().is_none() => {
                self.path.canonicalize().unwrap_or_else(|_| self.path.clone())
            }
            _ => self.path.clone(),
        };
        match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => self.config.architecture.name().to_owned(),
        }
    }

    /// The same model with the PEFT adapter of the folder `adapter` on it, if one is given; where the adapter brings a
    /// head, its labels replace the model's.
    ///
    /// # Errors
    /// If a file of the adapter is missing, damaged or asks for what is not supported.
    pub fn with_adapter(mut self, adapter: Option<&Path>) -> Result<Self, ModelError> {
        self.adapter = adapter.map(Adapter::open).transpose()?;
        if let Some(labels) = self.adapter.as_ref().and_then(|adapter| adapter.labels(&self.config.labels)) {
            self.config = self.config.with_labels(&labels);
            if self.adapter.as_ref().is_some_and(Adapter::has_single_label) {
                self.config = self.config.with_single_label();
            }
        }
        Ok(self)
    }

    /// The adapter given with [`ModelFolder::with_adapter`].
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Where the folder is; a name without a folder behind it for files in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `config.json` says, with the labels of the adapter's head if it brings one.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How photos are prepared: `preprocessor_config.json`, or timm's `pretrained_cfg`.
    ///
    /// # Errors
    /// If it is missing or cannot be used.
    pub fn processor(&self) -> Result<Processor, ModelError> {
        if let Some(settings) = self.config.json.get("pretrained_cfg").filter(|_| self.config.timm) {
            return self.fitting(Processor::from_timm(settings)?, "config.json");
        }
        let file = self.path.join(PROCESSOR);
        let processor = match &self.files {
            Files::OnDisk => Processor::from_file(&file)?,
            Files::InMemory(files) => Processor::from_json(&parse(&file, files.processor)?)?,
        };
        self.fitting(processor, PROCESSOR)
    }

    /// The processor of `file`, if its photos are large enough for the model.
    fn fitting(&self, processor: Processor, file: &str) -> Result<Processor, ModelError> {
        let ((height, width), least) = (processor.output_size(), self.config.architecture.least_side());
        if height.min(width) >= least {
            return Ok(processor);
        }
        let field = if self.config.timm { "pretrained_cfg.input_size" } else { processor.size_field() };
        let problem = format!("makes photos of {height} × {width} pixels, smaller than a patch of {least}");
        Err(ModelError::Config { file: self.path.join(file), field: field.to_owned(), problem })
    }

    /// [`ModelFolder::processor`]; for a bare config, as random weights need no more, [`Processor::plain`] of its image size.
    ///
    /// # Errors
    /// If `preprocessor_config.json` is there and cannot be used.
    pub fn processor_or_plain(&self) -> Result<Processor, ModelError> {
        if self.has_processor() {
            return self.processor();
        }
        let (height, width) = self.config.architecture.image_size();
        Ok(Processor::plain(height, width)?)
    }

    /// Whether the folder says how photos are prepared.
    pub fn has_processor(&self) -> bool {
        self.config.timm || matches!(self.files, Files::InMemory(_)) || self.path.join(PROCESSOR).exists()
    }

    /// Reads the weights and attaches the adapter, unmerged.
    ///
    /// # Errors
    /// If they are missing, damaged, or do not fit the config; names file, tensor and shapes.
    pub fn load(
        &self,
        trainable: Trainable,
        placement: &Placement,
    ) -> Result<Box<dyn Classifier>, ModelError> {
        let whole = || {
            let checkpoint = self.checkpoint()?;
            self.read(&checkpoint, &checkpoint, |source| build(&self.config, source, trainable, placement))
        };
        let Some(adapter) = &self.adapter else { return whole() };
        let mut model = if adapter.has_head() {
            // A head that the adapter replaces may have any size in the model's own file.
            self.load_for(&self.config, trainable, Randomness::new(0), placement)?.0
        } else {
            whole()?
        };
        adapter.attach(&mut *model, trainable)?;
        Ok(model)
    }

    /// Reads the weights for inference, the adapter merged into them: in f32 and on the CPU, before they go to their place.
    ///
    /// # Errors
    /// Those of [`ModelFolder::load`].
    pub fn load_merged(&self, placement: &Placement) -> Result<Box<dyn Classifier>, ModelError> {
        if self.adapter.is_none() {
            return self.load(Trainable::None, placement);
        }
        let mut classifier = self.load(Trainable::None, &Placement::CPU)?;
        merge(&mut *classifier).map_err(|error| ModelError::Damaged {
            file: self.path().into(),
            problem: format!("the adapter cannot be merged: {error}"),
        })?;
        transfer(&self.config, &*classifier, placement, &mut || {})
            .map_err(|source| ModelError::Parameter { file: self.path().into(), source })
    }

    /// Reads the weights for a model with the labels of `config`; a head that is missing or has another size is replaced
    /// by a fresh one (normal with `initializer_range`, bias 0). Labels that the file's head has under the same name keep
    /// their row; one of the right size without any of them is kept whole, as transformers does.
    ///
    /// # Errors
    /// Those of [`ModelFolder::load`], for every other tensor.
    pub fn load_for(
        &self,
        config: &Config,
        trainable: Trainable,
        randomness: Randomness,
        placement: &Placement,
    ) -> Result<(Box<dyn Classifier>, Head), ModelError> {
        let checkpoint = self.checkpoint()?;
        self.read(&checkpoint, &checkpoint, |source| {
            let source = ReplacedHead::of(source, RandomSource(randomness), self.known_labels(config));
            let model = build(config, &source, trainable, placement)?;
            Ok((model, source.head()))
        })
    }

    /// Whether [`ModelFolder::load_for`] will find every tensor in its shape, without reading their values.
    ///
    /// # Errors
    /// Those of [`ModelFolder::load_for`], but for values that cannot be read.
    pub fn check_for(&self, config: &Config) -> Result<Head, ModelError> {
        Ok(self.look(config)?.0)
    }

    /// Names of the weights' tensors that are no part of the classifier, sorted: a text model's, a pooler's. Those that
    /// only hold what the config tells as well are not among them.
    ///
    /// # Errors
    /// Those of [`ModelFolder::check_for`].
    pub fn left_behind(&self) -> Result<Vec<String>, ModelError> {
        let mut names = self.look(&self.config)?.1;
        names.retain(|name| !BUFFERS.iter().any(|buffer| name.ends_with(buffer)));
        Ok(names)
    }

    /// Whether the weights have a classification head, of whatever size.
    ///
    /// # Errors
    /// If there are none, or they are damaged.
    pub fn has_head(&self) -> Result<bool, ModelError> {
        let checkpoint = self.checkpoint()?;
        self.read(&checkpoint, &checkpoint, |source| Ok(source.has(&format!("{HEAD}.weight"))))
    }

    /// Builds from shapes alone; what became of the head, and the names that were not asked for.
    fn look(&self, config: &Config) -> Result<(Head, Vec<String>), ModelError> {
        let checkpoint = self.checkpoint()?;
        let shapes = Shapes::of(&checkpoint);
        let head = self.read(&checkpoint, &shapes, |source| {
            let source = ReplacedHead::of(source, ShapeSource, self.known_labels(config));
            build(config, &source, Trainable::None, &Placement::CPU)?;
            Ok(source.head())
        })?;
        Ok((head, shapes.rest()))
    }

    fn known_labels(&self, config: &Config) -> Option<KnownLabels> {
        KnownLabels::of(&self.config.labels, &config.labels)
    }

    pub(super) fn checkpoint(&self) -> Result<Checkpoint, ModelError> {
        match &self.files {
            Files::OnDisk => Checkpoint::open(&self.path),
            Files::InMemory(files) => Checkpoint::from_bytes(&self.path.join(WEIGHTS), files.weights),
        }
    }

    /// Builds from the `tensors` of `checkpoint` under the names that transformers' models have.
    pub(super) fn read<T>(
        &self,
        checkpoint: &Checkpoint,
        tensors: &dyn Source,
        build: impl FnOnce(&dyn Source) -> Result<T, ParameterError>,
    ) -> Result<T, ModelError> {
        let timm = TimmSource(tensors);
        let bare = BareSource::of(checkpoint, tensors, self.config.architecture.root());
        let source: &dyn Source = match &bare {
            _ if self.config.timm => &timm,
            Some(bare) => bare,
            None => tensors,
        };
        build(source).map_err(|source| ModelError::Parameter { file: checkpoint.file().into(), source })
    }
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Value, ModelError> {
    serde_json::from_slice(bytes).map_err(|source| ModelError::Json { file: file.into(), source })
}

/// The classifier of a config at `placement`, its tensors from `source`: a checkpoint, random values, or shapes alone.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub fn build(
    config: &Config,
    source: &dyn Source,
    trainable: Trainable,
    placement: &Placement,
) -> Result<Box<dyn Classifier>, ParameterError> {
    let (builder, labels) = (Builder::new(source, trainable, placement), config.labels.len());
    match &config.architecture {
        Architecture::Beit(beit) => Ok(Box::new(beit::build(&builder, beit, labels)?)),
        Architecture::Clip(clip) => Ok(Box::new(clip::build(&builder, clip, labels)?)),
        Architecture::Swin(swin) => Ok(Box::new(swin::build(&builder, swin, labels)?)),
        Architecture::SwinV2(swin_v2) => Ok(Box::new(swin_v2::build(&builder, swin_v2, labels)?)),
        Architecture::Vit(vit) => Ok(Box::new(vit::build(&builder, vit, labels)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::is_head;
    use candle_core::Tensor;
    use std::collections::HashMap;

    const TINY: ModelFiles = ModelFiles {
        name: "tiny",
        config: include_bytes!("../../tests/goldens/beit-tiny/config.json"),
        processor: include_bytes!("../../tests/goldens/beit-tiny/preprocessor_config.json"),
        weights: include_bytes!("../../tests/goldens/beit-tiny/model.safetensors"),
    };

    #[test]
    fn files_in_memory_make_the_same_model_as_the_folder() {
        let on_disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/beit-tiny");
        let on_disk = ModelFolder::open(&on_disk).expect("the folder");
        let in_memory = ModelFolder::from_files(TINY).expect("the files");
        assert_eq!((on_disk.name(), in_memory.name()), ("beit-tiny".to_owned(), "tiny".to_owned()));
        assert_eq!(on_disk.processor().expect("a processor"), in_memory.processor().expect("a processor"));
        let (left, right) = (
            on_disk.load(Trainable::None, &Placement::CPU),
            in_memory.load(Trainable::None, &Placement::CPU),
        );
        let (left, right) = (left.expect("weights"), right.expect("weights"));
        assert_eq!(left.parameters().len(), right.parameters().len());
        for (left, right) in left.parameters().into_iter().zip(right.parameters()) {
            let values = |tensor: &candle_core::Tensor| {
                tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>()).expect("values")
            };
            assert_eq!(left.name(), right.name());
            assert_eq!(values(left.tensor()), values(right.tensor()), "{}", left.name());
        }
    }

    /// google/vit-base-patch16-224-in21k is such a checkpoint.
    #[test]
    fn a_bare_backbone_is_read_without_the_architecture_s_name_before_its_own() {
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/vit-tiny");
        let bare = tempfile::tempdir().expect("a folder");
        std::fs::copy(whole.join("config.json"), bare.path().join("config.json")).expect("copied");
        let tensors = candle_core::safetensors::load(whole.join(WEIGHTS), &candle_core::Device::Cpu);
        let tensors: HashMap<String, Tensor> = tensors
            .expect("weights")
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("vit.")?.to_owned(), tensor)))
            .collect();
        candle_core::safetensors::save(&tensors, bare.path().join(WEIGHTS)).expect("saved");

        let bare = ModelFolder::open(bare.path()).expect("a folder");
        let (model, head) = bare
            .load_for(bare.config(), Trainable::None, Randomness::new(0), &Placement::CPU)
            .expect("a backbone");
        assert_eq!(head, Head::Fresh);
        let own = model.parameters().into_iter().filter(|parameter| !is_head(parameter.name()));
        for parameter in own {
            let values =
                |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
            let read = &tensors[parameter.name().strip_prefix("vit.").expect("a v4 name")];
            assert_eq!(values(parameter.tensor()), values(read), "{}", parameter.name());
        }
        let error = bare.load(Trainable::None, &Placement::CPU).err().map(|error| error.to_string());
        assert!(
            error.is_some_and(|error| error.contains("classifier.weight")),
            "without a head it cannot serve"
        );
    }

    #[test]
    fn labels_that_the_model_knows_keep_their_rows_of_the_head() {
        let folder = ModelFolder::from_files(TINY).expect("the files");
        let own = folder.config().labels.clone();
        let wanted = [own[4].clone(), "new".to_owned(), own[1].clone()];
        let load = |labels: &[String]| {
            let config = folder.config().with_labels(labels);
            let (model, head) = folder
                .load_for(&config, Trainable::None, Randomness::new(3), &Placement::CPU)
                .expect("weights");
            assert_eq!(folder.check_for(&config).expect("shapes"), head);
            let rows = model.parameters().into_iter().filter(|parameter| is_head(parameter.name()));
            let rows = rows.map(|parameter| {
                let columns = parameter.tensor().elem_count() / labels.len();
                let rows = parameter.tensor().reshape((labels.len(), columns));
                rows.and_then(|rows| rows.to_vec2::<f32>()).expect("rows")
            });
            (rows.collect::<Vec<_>>(), head)
        };
        let (whole, kept) = load(&own);
        let (carried, head) = load(&wanted);
        assert_eq!((kept, head), (Head::Kept, Head::Carried(2)));
        for (whole, carried) in whole.iter().zip(&carried) {
            assert_eq!((&carried[0], &carried[2]), (&whole[4], &whole[1]));
            assert!(!whole.contains(&carried[1]), "the label that nobody knows has a fresh row");
        }
        let (_, fresh) = load(&["new".to_owned(), "newer".to_owned()]);
        assert_eq!(fresh, Head::Fresh);
    }

    #[test]
    fn damaged_files_in_memory_are_refused_by_the_name_they_would_have_in_a_folder() {
        let cut = ModelFiles { weights: &TINY.weights[..100_000], ..TINY };
        let error =
            ModelFolder::from_files(cut).and_then(|folder| folder.load(Trainable::None, &Placement::CPU));
        let error = error.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("tiny/model.safetensors") && error.contains("cut short"), "{error}");
        let error = ModelFolder::from_files(ModelFiles { config: b"{", ..TINY }).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("tiny/config.json"), "{error}");
    }
}
