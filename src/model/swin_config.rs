//! The sizes of Swin and SwinV2, with transformers' names and defaults.

use super::ModelError;
use super::fields::Fields;
use crate::nn::Activation;

/// The sizes of a Swin Transformer.
#[derive(Clone, Debug)]
pub struct SwinConfig {
    /// Height and width it was trained at, in pixels.
    pub image_size: (usize, usize),
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of a photo.
    pub num_channels: usize,
    /// Width of the hidden states in the first stage; it doubles from stage to stage.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Heads of each stage's blocks.
    pub num_heads: Vec<usize>,
    /// Side of a window, in tokens.
    pub window_size: usize,
    /// Width inside the MLP, as a multiple of the width outside.
    pub mlp_ratio: f64,
    /// Whether the maps to queries and values (in Swin to keys, too) have a bias.
    pub qkv_bias: bool,
    /// Probability that the last block's branches are dropped in training.
    pub drop_path_rate: f64,
    /// The function inside the MLP.
    pub hidden_act: Activation,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Epsilon of the blocks' norms and of the last.
    pub layer_norm_eps: f64,
}

/// The sizes of a Swin Transformer V2.
#[derive(Clone, Debug)]
pub struct SwinV2Config {
    /// What it shares with Swin.
    pub swin: SwinConfig,
    /// Side of the windows that each stage's position biases were trained with; 0: the windows' own.
    pub pretrained_window_sizes: Vec<usize>,
}

impl SwinConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        fields.refuse_flags(&["use_absolute_embeddings"])?;
        let config = Self {
            image_size: fields.size("image_size", 224)?,
            patch_size: fields.side("patch_size", 4)?,
            num_channels: fields.count("num_channels", 3)?,
            embed_dim: fields.count("embed_dim", 96)?,
            depths: fields.counts("depths", &[2, 2, 6, 2])?,
            num_heads: fields.counts("num_heads", &[3, 6, 12, 24])?,
            window_size: fields.side("window_size", 7)?,
            mlp_ratio: fields.number("mlp_ratio", 4.0)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
            drop_path_rate: fields.share("drop_path_rate", 0.1)?,
            hidden_act: fields.activation(Activation::Gelu)?,
            initializer_range: fields.not_negative("initializer_range", 0.02)?,
            layer_norm_eps: fields.not_negative("layer_norm_eps", 1e-5)?,
        };
        let (stages, heads) = (config.depths.len(), config.num_heads.len());
        if stages != heads {
            return Err(fields.wrong("num_heads", format!("has {heads} stages, `depths` has {stages}")));
        }
        if stages > 16 {
            return Err(fields.wrong("depths", format!("has {stages} stages; supported: at most 16")));
        }
        for (stage, heads) in config.num_heads.iter().enumerate() {
            let width = config.width(stage);
            if width > 1_000_000 || !width.is_multiple_of(*heads) {
                let problem = format!(
                    "has {heads} for stage {}, whose width {width} is no multiple of it up to 1000000",
                    stage + 1
                );
                return Err(fields.wrong("num_heads", problem));
            }
        }
        // Sizes beyond would only exhaust memory: of the MLP, and of the table of offsets within a window.
        let ratio = config.mlp_ratio;
        if !(ratio <= 64.0 && config.embed_dim as f64 * ratio >= 1.0) {
            return Err(
                fields.wrong("mlp_ratio", format!("is {ratio}, a number above 0, at most 64, wanted"))
            );
        }
        if config.window_size > 512 {
            let problem = format!("is {}; supported: at most 512", config.window_size);
            return Err(fields.wrong("window_size", problem));
        }
        fields.check_photo(config.num_channels, config.image_size, config.patch_size)?;
        Ok(config)
    }

    /// Width of the hidden states in a stage.
    pub(super) fn width(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }

    /// Width inside the MLP of a stage.
    pub(super) fn inner(&self, stage: usize) -> usize {
        (self.mlp_ratio * self.width(stage) as f64) as usize
    }

    /// Stochastic depth of the block that stands behind `before` others: from 0 to `drop_path_rate`.
    pub(super) fn drop_path(&self, before: usize) -> f64 {
        let last = self.depths.iter().sum::<usize>() - 1;
        self.drop_path_rate * before as f64 / last.max(1) as f64
    }
}

impl SwinV2Config {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        let swin = SwinConfig::from_fields(fields)?;
        let stages = swin.depths.len();
        let pretrained_window_sizes = fields.numbers("pretrained_window_sizes", &vec![0; stages])?;
        match pretrained_window_sizes.len() {
            found if found < stages => {
                let problem = format!("has {found} stages, `depths` has {stages}");
                Err(fields.wrong("pretrained_window_sizes", problem))
            }
            _ => Ok(Self { swin, pretrained_window_sizes }),
        }
    }

    /// Side of the windows of a stage, and whether every other block shifts them: a stage whose grid is no larger than a window
    /// has one, which is not shifted.
    pub(super) fn windows(&self, stage: usize) -> (usize, bool) {
        let rows = (self.swin.image_size.0 / self.swin.patch_size) >> stage;
        (self.swin.window_size.min(rows).max(1), rows > self.swin.window_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn sizes_that_make_no_model_are_refused_by_the_field() {
        for (field, value) in [
            ("depths", json!([2, 0])),
            ("depths", json!(2)),
            ("num_heads", json!([3])),
            ("num_heads", json!([3, 6, 12, 7])),
            ("window_size", json!([7, 8])),
            ("window_size", json!(100_000)),
            ("drop_path_rate", json!(1)),
            ("layer_norm_eps", json!(-1)),
            ("mlp_ratio", json!(-1)),
            ("mlp_ratio", json!(1e300)),
            ("use_absolute_embeddings", json!(true)),
            ("pretrained_window_sizes", json!([12])),
            ("hidden_act", json!("relu")),
        ] {
            let json = json!({ field: value });
            let config = SwinV2Config::from_fields(Fields {
                json: &json,
                within: None,
                file: Path::new("config.json"),
            });
            let error = config.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(field), "{field} = {value}: {error}");
        }
    }

    /// microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft: grids of 96, 48, 24 and 12.
    #[test]
    fn a_stage_no_larger_than_a_window_is_one_window() {
        let json = json!({ "image_size": 384, "window_size": 24 });
        let config =
            SwinV2Config::from_fields(Fields { json: &json, within: None, file: Path::new("config.json") });
        let config = config.expect("a config");
        assert_eq!(
            [0, 1, 2, 3].map(|stage| config.windows(stage)),
            [(24, true), (24, true), (24, false), (12, false)]
        );
    }
}
