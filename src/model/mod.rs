//! Architectures, and the files they are read from.
//!
//! One file an architecture, each behind [`Classifier`]; `config` reads `config.json`, `checkpoint` the weights, `timm` the
//! other naming, `folder` puts them together. Called by the engine, the predictor and the trainer; never sees HTTP.

mod adapter;
mod adapter_config;
mod bare;
mod beit;
mod checkpoint;
mod clip;
mod config;
mod error;
mod fields;
mod folder;
mod hierarchy;
mod in_memory;
mod inspect;
mod loaded;
mod names;
mod plain;
mod plain_config;
mod replaced_head;
mod save;
mod save_trained;
mod swin;
mod swin_config;
mod swin_v2;
mod timm;
mod vit;
pub(crate) mod weight_files;

pub use adapter::{Adapter, attach_new, merge, save as save_adapter};
pub use adapter_config::AdapterConfig;
pub use beit::BeitConfig;
pub use checkpoint::Checkpoint;
pub use clip::ClipConfig;
pub use config::{Architecture, Config, MODEL_TYPES};
pub use error::ModelError;
pub use folder::{ModelFiles, ModelFolder, build};
pub use inspect::{Inspection, verify};
pub use loaded::{LoadedModel, Photo};
pub use names::{ALL_LINEAR, matches_target, parse_target, v5_name};
pub use plain_config::PlainConfig;
pub use replaced_head::Head;
pub use save::{create_folder, save_backbone, save_bytes, save_model, save_tensors, save_text};
pub use swin_config::{SwinConfig, SwinV2Config};
pub use vit::VitConfig;

use crate::nn::{Linear, Parameter, Pass};
use crate::ops::device::Placement;
use candle_core::{Result, Tensor};

/// What travels from block to block.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// `[batch, tokens, hidden]`.
    pub states: Tensor,
    /// Rows and columns of patches behind the tokens.
    pub grid: (usize, usize),
}

/// An image classifier, cut so that a trainer can run and differentiate it block by block.
pub trait Classifier: Send + Sync {
    /// `pixel_values` `[batch, 3, height, width]`, normalised, on the model's device → the first block's input.
    ///
    /// # Errors
    /// If the photo's shape does not fit the model.
    fn embed(&self, pixel_values: &Tensor, pass: &Pass) -> Result<Hidden>;

    /// Number of blocks.
    fn blocks(&self) -> usize;

    /// Block `index`, from 0.
    ///
    /// # Errors
    /// If there is no such block, or the states do not fit.
    fn block(&self, index: usize, hidden: &Hidden, pass: &Pass) -> Result<Hidden>;

    /// The last block's output → logits `[batch, labels]`, f32.
    ///
    /// # Errors
    /// If the states do not fit.
    fn head(&self, hidden: &Hidden, pass: &Pass) -> Result<Tensor>;

    /// Every parameter, adapters left out, in a fixed order under v4 names.
    fn parameters(&self) -> Vec<&Parameter>;

    /// Those of block `index`, in the same order; none where there is no such block.
    fn block_parameters(&self, index: usize) -> Vec<&Parameter>;

    /// Every linear map that an adapter can be attached to, in a fixed order.
    fn linears_mut(&mut self) -> Vec<&mut Linear>;

    /// Every linear map, in the order of [`Classifier::linears_mut`].
    fn linears(&self) -> Vec<&Linear>;

    /// How many blocks have run at each of the hidden states that transformers lists: every one, or the ends of stages.
    fn hidden_states(&self) -> Vec<usize> {
        (0..=self.blocks()).collect()
    }

    /// Where the model lies, and what it computes in.
    fn placement(&self) -> Placement {
        self.parameters().first().map_or(Placement::CPU, |parameter| parameter.placement())
    }

    /// The whole forward pass: logits `[batch, labels]`, f32.
    ///
    /// # Errors
    /// Those of the parts.
    fn forward(&self, pixel_values: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut hidden = self.embed(pixel_values, pass)?;
        for index in 0..self.blocks() {
            hidden = self.block(index, &hidden, pass)?;
        }
        self.head(&hidden, pass)
    }
}
