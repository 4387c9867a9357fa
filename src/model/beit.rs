//! BEiT for image classification (Bao et al. 2021, "BEiT: BERT Pre-Training of Image Transformers").
//!
//! Reference code: transformers `modeling_beit.py`. One code for training and inference; any image size, patch size, depth
//! and label count; the relative position bias is interpolated to other input sizes.

use super::config::Fields;
use super::{Classifier, Hidden, ModelError};
use crate::nn::{
    Builder, HEAD, Initialization, LayerNorm, Linear, Parameter, ParameterError, Pass, PatchEmbedding,
    RelativePositionBias,
};
use crate::ops::{self, Attention, RelativePositions};
use candle_core::{DType, Result, Tensor, bail};
use serde_json::{Value, json};

/// The sizes of a BEiT, with transformers' names and defaults.
#[derive(Clone, Debug)]
pub struct BeitConfig {
    /// Height and width it was trained at, in pixels.
    pub image_size: (usize, usize),
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of a photo.
    pub num_channels: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads a block.
    pub num_attention_heads: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// First value of the layer scale; 0 means there is none.
    pub layer_scale_init_value: f64,
    /// Probability that the last block's branches are dropped in training.
    pub drop_path_rate: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Pool the mean of the patches (with a norm of its own) rather than the class token.
    pub use_mean_pooling: bool,
    /// Whether each block has a table of relative position biases.
    pub use_relative_position_bias: bool,
    /// Number of labels.
    pub num_labels: usize,
}

impl BeitConfig {
    pub(super) fn from_fields(
        fields: Fields<'_>,
        num_labels: usize,
    ) -> std::result::Result<Self, ModelError> {
        let act = fields.text("hidden_act")?.unwrap_or("gelu");
        if act != "gelu" {
            return Err(fields.wrong("hidden_act", format!("is {act}; supported: gelu")));
        }
        for field in ["use_absolute_position_embeddings", "use_shared_relative_position_bias"] {
            if fields.flag(field, false)? {
                return Err(fields.wrong(field, "is true, which is not supported"));
            }
        }
        let config = Self {
            image_size: fields.size("image_size", 224)?,
            patch_size: fields.count("patch_size", 16)?,
            num_channels: fields.count("num_channels", 3)?,
            hidden_size: fields.count("hidden_size", 768)?,
            num_hidden_layers: fields.count("num_hidden_layers", 12)?,
            num_attention_heads: fields.count("num_attention_heads", 12)?,
            intermediate_size: fields.count("intermediate_size", 3072)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-12)?,
            layer_scale_init_value: fields.number("layer_scale_init_value", 0.1)?,
            drop_path_rate: fields.number("drop_path_rate", 0.1)?,
            initializer_range: fields.number("initializer_range", 0.02)?,
            use_mean_pooling: fields.flag("use_mean_pooling", true)?,
            use_relative_position_bias: fields.flag("use_relative_position_bias", false)?,
            num_labels,
        };
        config.checked(fields)
    }

    /// Refuses sizes that make no model, wherever they were read.
    pub(super) fn checked(self, fields: Fields<'_>) -> std::result::Result<Self, ModelError> {
        let config = self;
        if config.patch_size == 0 {
            return Err(fields.wrong("patch_size", "is 0"));
        }
        if config.num_channels != 3 {
            return Err(fields.wrong("num_channels", format!("is {}; supported: 3", config.num_channels)));
        }
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let problem =
                format!("is {}, no multiple of {} heads", config.hidden_size, config.num_attention_heads);
            return Err(fields.wrong("hidden_size", problem));
        }
        if config.image_size.0 < config.patch_size || config.image_size.1 < config.patch_size {
            return Err(
                fields.wrong("image_size", format!("is smaller than a patch of {}", config.patch_size))
            );
        }
        Ok(config)
    }

    /// The sizes as a `config.json` of transformers has them, labels left out.
    pub(super) fn to_json(&self) -> Value {
        let (height, width) = self.image_size;
        json!({
            "model_type": "beit",
            "image_size": if height == width { json!(height) } else { json!([height, width]) },
            "patch_size": self.patch_size,
            "num_channels": self.num_channels,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "gelu",
            "layer_norm_eps": self.layer_norm_eps,
            "layer_scale_init_value": self.layer_scale_init_value,
            "drop_path_rate": self.drop_path_rate,
            "initializer_range": self.initializer_range,
            "use_mean_pooling": self.use_mean_pooling,
            "use_relative_position_bias": self.use_relative_position_bias,
            "use_absolute_position_embeddings": false,
            "use_shared_relative_position_bias": false,
        })
    }

    fn grid(&self) -> RelativePositions {
        RelativePositions {
            height: self.image_size.0 / self.patch_size,
            width: self.image_size.1 / self.patch_size,
        }
    }
}

/// The model.
pub struct Beit {
    cls_token: Parameter,
    patch_embedding: PatchEmbedding,
    layers: Vec<Layer>,
    /// After the mean over patches, or (without mean pooling) before the class token is taken.
    norm: LayerNorm,
    mean_pooling: bool,
    classifier: Linear,
}

struct Layer {
    layernorm_before: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    relative_position_bias: Option<RelativePositionBias>,
    attention_output: Linear,
    lambda_1: Option<Parameter>,
    layernorm_after: LayerNorm,
    intermediate: Linear,
    output: Linear,
    lambda_2: Option<Parameter>,
    attention: Attention,
    drop_path: f64,
    index: u64,
}

impl Beit {
    /// Builds the model from a builder at the root of the names.
    ///
    /// # Errors
    /// If the source lacks a tensor, or one has another shape.
    pub fn new(builder: &Builder<'_>, config: &BeitConfig) -> std::result::Result<Self, ParameterError> {
        let hidden = config.hidden_size;
        let deviation = config.initializer_range as f32;
        let root = builder.at("beit");
        let embeddings = root.at("embeddings");
        let sizes = (hidden, config.num_channels, config.patch_size);
        let norm =
            if config.use_mean_pooling { root.at("pooler").at("layernorm") } else { root.at("layernorm") };
        let layers = root.at("encoder").at("layer");
        Ok(Self {
            cls_token: embeddings.parameter("cls_token", &[1, 1, hidden], Initialization::Constant(0.0))?,
            patch_embedding: PatchEmbedding::new(
                &embeddings.at("patch_embeddings").at("projection"),
                sizes,
                true,
                deviation,
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::new(&layers.at(index), config, index))
                .collect::<std::result::Result<_, _>>()?,
            norm: LayerNorm::new(&norm, hidden, config.layer_norm_eps as f32)?,
            mean_pooling: config.use_mean_pooling,
            classifier: Linear::new(&builder.at(HEAD), hidden, config.num_labels, true, deviation)?,
        })
    }
}

impl Layer {
    fn new(
        builder: &Builder<'_>,
        config: &BeitConfig,
        index: usize,
    ) -> std::result::Result<Self, ParameterError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let deviation = config.initializer_range as f32;
        let attention = builder.at("attention").at("attention");
        let square = |name: &str, bias| Linear::new(&attention.at(name), hidden, hidden, bias, deviation);
        let norm = |name: &str| LayerNorm::new(&builder.at(name), hidden, config.layer_norm_eps as f32);
        let lambda = |name: &str| match config.layer_scale_init_value {
            value if value > 0.0 => {
                builder.parameter(name, &[hidden], Initialization::Constant(value as f32)).map(Some)
            }
            _ => Ok(None),
        };
        let bias = match config.use_relative_position_bias {
            true => Some(RelativePositionBias::new(
                &attention.at("relative_position_bias"),
                config.grid(),
                config.num_attention_heads,
            )?),
            false => None,
        };
        let output = builder.at("attention").at("output").at("dense");
        let deepest = (config.num_hidden_layers - 1).max(1) as f64;
        Ok(Self {
            layernorm_before: norm("layernorm_before")?,
            query: square("query", true)?,
            key: square("key", false)?,
            value: square("value", true)?,
            relative_position_bias: bias,
            attention_output: Linear::new(&output, hidden, hidden, true, deviation)?,
            lambda_1: lambda("lambda_1")?,
            layernorm_after: norm("layernorm_after")?,
            intermediate: Linear::new(
                &builder.at("intermediate").at("dense"),
                hidden,
                inner,
                true,
                deviation,
            )?,
            output: Linear::new(&builder.at("output").at("dense"), inner, hidden, true, deviation)?,
            lambda_2: lambda("lambda_2")?,
            attention: Attention {
                heads: config.num_attention_heads,
                scale: 1.0 / ((hidden / config.num_attention_heads) as f32).sqrt(),
            },
            drop_path: config.drop_path_rate * index as f64 / deepest,
            index: index as u64,
        })
    }

    /// `x += drop_path(λ₁ · attention(norm(x)))`, then `x += drop_path(λ₂ · mlp(norm(x)))`.
    fn forward(&self, hidden: &Hidden, pass: &Pass) -> Result<Tensor> {
        let x = &hidden.states;
        let batch = x.dim(0)?;
        let context = self.attend(&self.layernorm_before.forward(x)?, hidden.grid, pass)?;
        let y = self.attention_output.forward(&context, pass)?;
        let dropped = pass.drop_path(self.drop_path, batch, 2 * self.index);
        let x = ops::residual(x, &y, scale(&self.lambda_1)?.as_ref(), dropped)?;
        let y = self.intermediate.forward(&self.layernorm_after.forward(&x)?, pass)?;
        let y = self.output.forward(&ops::gelu(&y)?, pass)?;
        let dropped = pass.drop_path(self.drop_path, batch, 2 * self.index + 1);
        ops::residual(&x, &y, scale(&self.lambda_2)?.as_ref(), dropped)
    }

    fn attend(&self, x: &Tensor, (height, width): (usize, usize), pass: &Pass) -> Result<Tensor> {
        let parts = [&self.query, &self.key, &self.value].map(|linear| linear.forward(x, pass));
        let [q, k, v] = parts;
        let qkv = Tensor::cat(&[q?, k?, v?], 2)?; // [batch, tokens, 3 · hidden]
        let grid = RelativePositions { height, width };
        let table = self.relative_position_bias.as_ref().map(|bias| bias.for_grid(grid)).transpose()?;
        ops::attention(&qkv, table.as_ref().map(|table| (table, grid)), self.attention)
    }

    fn linears(&self) -> [&Linear; 6] {
        [&self.query, &self.key, &self.value, &self.attention_output, &self.intermediate, &self.output]
    }

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let attention = self.query.parameters().chain(self.key.parameters()).chain(self.value.parameters());
        let bias = self.relative_position_bias.iter().flat_map(RelativePositionBias::parameters);
        self.lambda_1
            .iter()
            .chain(&self.lambda_2)
            .chain(self.layernorm_before.parameters())
            .chain(attention)
            .chain(bias)
            .chain(self.attention_output.parameters())
            .chain(self.layernorm_after.parameters())
            .chain(self.intermediate.parameters())
            .chain(self.output.parameters())
    }
}

fn scale(lambda: &Option<Parameter>) -> Result<Option<Tensor>> {
    lambda.as_ref().map(Parameter::value).transpose()
}

impl Classifier for Beit {
    fn embed(&self, pixel_values: &Tensor, _: &Pass) -> Result<Hidden> {
        let (patches, grid) = self.patch_embedding.forward(pixel_values)?;
        let (batch, _, hidden) = patches.dims3()?;
        let cls = self.cls_token.value()?.broadcast_as((batch, 1, hidden))?;
        Ok(Hidden { states: Tensor::cat(&[&cls, &patches], 1)?, grid })
    }

    fn blocks(&self) -> usize {
        self.layers.len()
    }

    fn block(&self, index: usize, hidden: &Hidden, pass: &Pass) -> Result<Hidden> {
        match self.layers.get(index) {
            Some(layer) => Ok(Hidden { states: layer.forward(hidden, pass)?, grid: hidden.grid }),
            None => bail!("block {index}: the model has {}", self.layers.len()),
        }
    }

    fn head(&self, hidden: &Hidden, pass: &Pass) -> Result<Tensor> {
        let states = &hidden.states;
        let pooled = if self.mean_pooling {
            let patches = states.narrow(1, 1, states.dim(1)? - 1)?;
            self.norm.forward(&patches.to_dtype(DType::F32)?.mean(1)?.to_dtype(states.dtype())?)?
        } else {
            self.norm.forward(&states.narrow(1, 0, 1)?.squeeze(1)?)?
        };
        self.classifier.forward(&pooled, pass)?.to_dtype(DType::F32)
    }

    fn parameters(&self) -> Vec<&Parameter> {
        std::iter::once(&self.cls_token)
            .chain(self.patch_embedding.parameters())
            .chain(self.layers.iter().flat_map(Layer::parameters))
            .chain(self.norm.parameters())
            .chain(self.classifier.parameters())
            .collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let blocks = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.query,
                &mut layer.key,
                &mut layer.value,
                &mut layer.attention_output,
                &mut layer.intermediate,
                &mut layer.output,
            ]
        });
        blocks.chain(std::iter::once(&mut self.classifier)).collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.layers.iter().flat_map(Layer::linears).chain(std::iter::once(&self.classifier)).collect()
    }
}
