//! The plain transformer over patches that BEiT, ViT and CLIP are: patches and a class token, blocks at one resolution, a
//! pooled token, a linear head. What they call their parts, and which parts they have, stands in their own files.

use super::{Classifier, Hidden};
use crate::nn::{LayerNorm, Linear, Parameter, Pass, PatchEmbedding, PositionEmbedding, PreNormBlock};
use candle_core::{DType, Result, Tensor, bail};

/// What the head sees of the last hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The class token.
    ClassToken,
    /// The mean of the patches.
    MeanOfPatches,
}

/// The model.
pub(super) struct Plain {
    /// `hidden` values, in whatever shape the checkpoint has.
    pub(super) class_token: Parameter,
    pub(super) patch_embedding: PatchEmbedding,
    pub(super) positions: Option<PositionEmbedding>,
    /// Before the first block.
    pub(super) norm_before: Option<LayerNorm>,
    pub(super) blocks: Vec<PreNormBlock>,
    pub(super) pooling: Pooling,
    /// Of what was pooled.
    pub(super) norm_after: Option<LayerNorm>,
    /// What the checkpoint has and classification does not use; kept so that the model can be written back whole.
    pub(super) unused: Option<LayerNorm>,
    pub(super) classifier: Linear,
}

impl Classifier for Plain {
    fn embed(&self, pixel_values: &Tensor, _: &Pass) -> Result<Hidden> {
        let (patches, grid) = self.patch_embedding.forward(pixel_values)?;
        let (batch, _, hidden) = patches.dims3()?;
        let class = self.class_token.value()?.reshape((1, 1, hidden))?.broadcast_as((batch, 1, hidden))?;
        let mut states = Tensor::cat(&[&class, &patches], 1)?;
        if let Some(positions) = &self.positions {
            states = states.broadcast_add(&positions.for_grid(grid)?)?;
        }
        if let Some(norm) = &self.norm_before {
            states = norm.forward(&states)?;
        }
        Ok(Hidden { states, grid })
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, index: usize, hidden: &Hidden, pass: &Pass) -> Result<Hidden> {
        match self.blocks.get(index) {
            Some(block) => {
                Ok(Hidden { states: block.forward(&hidden.states, hidden.grid, pass)?, grid: hidden.grid })
            }
            None => bail!("block {index}: the model has {}", self.blocks.len()),
        }
    }

    fn head(&self, hidden: &Hidden, pass: &Pass) -> Result<Tensor> {
        let states = &hidden.states;
        let pooled = match self.pooling {
            Pooling::ClassToken => states.narrow(1, 0, 1)?.squeeze(1)?,
            Pooling::MeanOfPatches => {
                let patches = states.narrow(1, 1, states.dim(1)? - 1)?;
                patches.to_dtype(DType::F32)?.mean(1)?.to_dtype(states.dtype())?
            }
        };
        let pooled = match &self.norm_after {
            Some(norm) => norm.forward(&pooled)?,
            None => pooled,
        };
        self.classifier.forward(&pooled, pass)?.to_dtype(DType::F32)
    }

    fn parameters(&self) -> Vec<&Parameter> {
        std::iter::once(&self.class_token)
            .chain(self.patch_embedding.parameters())
            .chain(self.positions.iter().flat_map(PositionEmbedding::parameters))
            .chain(self.norm_before.iter().flat_map(LayerNorm::parameters))
            .chain(self.blocks.iter().flat_map(PreNormBlock::parameters))
            .chain(self.norm_after.iter().flat_map(LayerNorm::parameters))
            .chain(self.unused.iter().flat_map(LayerNorm::parameters))
            .chain(self.classifier.parameters())
            .collect()
    }

    fn block_parameters(&self, index: usize) -> Vec<&Parameter> {
        self.blocks.get(index).map_or_else(Vec::new, |block| block.parameters().collect())
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let blocks = self.blocks.iter_mut().flat_map(PreNormBlock::linears_mut);
        blocks.chain(std::iter::once(&mut self.classifier)).collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        let blocks = self.blocks.iter().flat_map(PreNormBlock::linears);
        blocks.chain(std::iter::once(&self.classifier)).collect()
    }
}
