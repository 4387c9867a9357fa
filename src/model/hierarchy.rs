//! The hierarchy of stages that Swin and SwinV2 are: blocks of windowed attention, and between stages a merger of neighbouring
//! tokens that halves the grid and doubles the width. What a block is stands in their own files.

use super::swin_config::SwinConfig;
use super::{Classifier, Hidden};
use crate::nn::{
    AttentionNames, Builder, Edges, HEAD, LayerNorm, Linear, Parameter, ParameterError, Pass, PatchEmbedding,
    merge_neighbours,
};
use candle_core::{DType, Result, Tensor, bail};

/// Epsilon of the norms that the configs say nothing of.
const DEFAULT_EPS: f32 = 1e-5;

/// What v4 calls the attention of a block of Swin or SwinV2.
pub(super) const ATTENTION: AttentionNames = AttentionNames {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
};

/// And its MLP.
pub(super) const MLP: [&str; 2] = ["intermediate.dense", "output.dense"];

/// A block of a stage.
pub(super) trait WindowBlock: Send + Sync {
    /// `x` `[batch, rows · columns, hidden]` → the same shape.
    fn forward(&self, x: &Tensor, grid: (usize, usize), pass: &Pass) -> Result<Tensor>;
    /// Its parameters, in order.
    fn parameters(&self) -> Vec<&Parameter>;
    /// Its linear maps, in order.
    fn linears(&self) -> Vec<&Linear>;
    /// The same, to be changed.
    fn linears_mut(&mut self) -> Vec<&mut Linear>;
}

/// Where the norm of a merger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergerNorm {
    /// Before the reduction, over four tokens: Swin.
    Before,
    /// Behind it: SwinV2.
    After,
}

/// Four neighbours to one token of twice the width.
struct Merger {
    norm: LayerNorm,
    reduction: Linear,
    order: MergerNorm,
}

impl Merger {
    fn new(
        builder: &Builder<'_>,
        width: usize,
        order: MergerNorm,
        deviation: f32,
    ) -> std::result::Result<Self, ParameterError> {
        let normed = match order {
            MergerNorm::Before => 4 * width,
            MergerNorm::After => 2 * width,
        };
        Ok(Self {
            norm: LayerNorm::new(&builder.at("norm"), normed, DEFAULT_EPS)?,
            reduction: Linear::new(&builder.at("reduction"), 4 * width, 2 * width, false, deviation)?,
            order,
        })
    }

    fn forward(&self, hidden: &Hidden, pass: &Pass) -> Result<Hidden> {
        let (rows, columns) = hidden.grid;
        let four = merge_neighbours(&hidden.states, hidden.grid)?;
        let states = match self.order {
            MergerNorm::Before => self.reduction.forward(&self.norm.forward(&four)?, pass)?,
            MergerNorm::After => self.norm.forward(&self.reduction.forward(&four, pass)?)?,
        };
        Ok(Hidden { states, grid: (rows.div_ceil(2), columns.div_ceil(2)) })
    }
}

/// A block, and the merger behind it where it is the last of a stage that has another one after it.
struct Step<B> {
    block: B,
    merger: Option<Merger>,
}

impl<B: WindowBlock> Step<B> {
    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let merger = self.merger.iter();
        let merger = merger.flat_map(|merger| merger.norm.parameters().chain(merger.reduction.parameters()));
        self.block.parameters().into_iter().chain(merger)
    }
}

/// The model.
pub(super) struct Hierarchy<B> {
    patch_embedding: PatchEmbedding,
    norm_before: LayerNorm,
    steps: Vec<Step<B>>,
    /// Blocks of each stage.
    depths: Vec<usize>,
    norm_after: LayerNorm,
    classifier: Linear,
}

impl<B: WindowBlock> Hierarchy<B> {
    /// Builds the model from a builder at the root of the names, which stand under `prefix`. `block` makes the one of a stage
    /// with so many blocks before it, in its stage and in all.
    ///
    /// # Errors
    /// If the source lacks a tensor, or one has another shape.
    pub(super) fn new(
        builder: &Builder<'_>,
        (prefix, order): (&str, MergerNorm),
        config: &SwinConfig,
        labels: usize,
        block: impl Fn(&Builder<'_>, BlockPlace) -> std::result::Result<B, ParameterError>,
    ) -> std::result::Result<Self, ParameterError> {
        let deviation = config.initializer_range as f32;
        let root = builder.at(prefix);
        let embeddings = root.at("embeddings");
        let last = config.depths.len() - 1;
        let mut steps = Vec::new();
        for (stage, &depth) in config.depths.iter().enumerate() {
            let builder = root.at("encoder.layers").at(stage);
            for index in 0..depth {
                let place = BlockPlace { stage, index, before: steps.len() };
                let block = block(&builder.at("blocks").at(index), place)?;
                let ends = index + 1 == depth && stage < last;
                let merger = ends
                    .then(|| Merger::new(&builder.at("downsample"), config.width(stage), order, deviation));
                steps.push(Step { block, merger: merger.transpose()? });
            }
        }
        let width = config.width(last);
        Ok(Self {
            patch_embedding: PatchEmbedding::new(
                &embeddings.at("patch_embeddings.projection"),
                (config.embed_dim, config.num_channels, config.patch_size),
                true,
                deviation,
            )?
            .with_edges(Edges::Pad),
            norm_before: LayerNorm::new(&embeddings.at("norm"), config.embed_dim, DEFAULT_EPS)?,
            steps,
            depths: config.depths.clone(),
            norm_after: LayerNorm::new(&root.at("layernorm"), width, config.layer_norm_eps as f32)?,
            classifier: Linear::new(&builder.at(HEAD), width, labels, true, deviation)?,
        })
    }
}

/// Which block it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockPlace {
    /// Its stage.
    pub(super) stage: usize,
    /// Its number in the stage.
    pub(super) index: usize,
    /// Its number in the model.
    pub(super) before: usize,
}

impl<B: WindowBlock> Classifier for Hierarchy<B> {
    fn embed(&self, pixel_values: &Tensor, _: &Pass) -> Result<Hidden> {
        let (patches, grid) = self.patch_embedding.forward(pixel_values)?;
        Ok(Hidden { states: self.norm_before.forward(&patches)?, grid })
    }

    fn blocks(&self) -> usize {
        self.steps.len()
    }

    fn block(&self, index: usize, hidden: &Hidden, pass: &Pass) -> Result<Hidden> {
        let Some(step) = self.steps.get(index) else {
            bail!("block {index}: the model has {}", self.steps.len())
        };
        let states = step.block.forward(&hidden.states, hidden.grid, pass)?;
        let hidden = Hidden { states, grid: hidden.grid };
        step.merger.as_ref().map_or(Ok(hidden.clone()), |merger| merger.forward(&hidden, pass))
    }

    fn head(&self, hidden: &Hidden, pass: &Pass) -> Result<Tensor> {
        let states = self.norm_after.forward(&hidden.states)?;
        let pooled = states.to_dtype(DType::F32)?.mean(1)?.to_dtype(states.dtype())?;
        self.classifier.forward(&pooled, pass)?.to_dtype(DType::F32)
    }

    fn hidden_states(&self) -> Vec<usize> {
        let mut blocks = 0;
        let ends = self.depths.iter().map(|depth| {
            blocks += depth;
            blocks
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn parameters(&self) -> Vec<&Parameter> {
        let steps = self.steps.iter().flat_map(Step::parameters);
        self.patch_embedding
            .parameters()
            .chain(self.norm_before.parameters())
            .chain(steps)
            .chain(self.norm_after.parameters())
            .chain(self.classifier.parameters())
            .collect()
    }

    fn block_parameters(&self, index: usize) -> Vec<&Parameter> {
        self.steps.get(index).map_or_else(Vec::new, |step| step.parameters().collect())
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let steps = self.steps.iter_mut().flat_map(|step| {
            let merger = step.merger.iter_mut().map(|merger| &mut merger.reduction);
            step.block.linears_mut().into_iter().chain(merger)
        });
        steps.chain(std::iter::once(&mut self.classifier)).collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        let steps = self.steps.iter().flat_map(|step| {
            let merger = step.merger.iter().map(|merger| &merger.reduction);
            step.block.linears().into_iter().chain(merger)
        });
        steps.chain(std::iter::once(&self.classifier)).collect()
    }
}
