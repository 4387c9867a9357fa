//! Which parameters decay, and what each one's learning rate is multiplied by.
//!
//! The trainer asks once, when it makes its optimiser. Everything is decided by names, shapes and the block that a parameter lies in.

use crate::optimizer::Group;
use featherlight::model::Classifier;
use featherlight::nn::Parameter;
use std::collections::HashMap;

/// Learning rates that differ from parameter to parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRates {
    /// That of LoRA's B and of vectors, as a multiple of A's (LoRA+, Hayou et al. 2024); 1 is LoRA.
    pub lora_plus_ratio: f64,
    /// That of a block, as a multiple of the one behind it (Clark et al. 2020, "ELECTRA"; BEiT's `layer_decay`); 1 for all the same.
    pub layer_decay: f64,
}

impl Default for LearningRates {
    fn default() -> Self {
        Self { lora_plus_ratio: 1.0, layer_decay: 1.0 }
    }
}

/// How far into the model each parameter lies: 0 for the embeddings, i + 1 for block i, one more for what is behind the last block.
pub struct Depths {
    by_name: HashMap<String, usize>,
    deepest: usize,
}

impl Depths {
    /// Those of the parameters of `model`.
    pub fn of(model: &dyn Classifier) -> Self {
        let mut by_name = HashMap::new();
        for index in 0..model.blocks() {
            let parameters = model.block_parameters(index).into_iter();
            by_name.extend(parameters.map(|parameter| (parameter.name().to_owned(), index + 1)));
        }
        // The order of the parameters is that of the model: what stands before the first block belongs to the embeddings.
        let parameters = model.parameters();
        let before = parameters.iter().take_while(|parameter| !by_name.contains_key(parameter.name()));
        let embeddings: Vec<_> = before.map(|parameter| (parameter.name().to_owned(), 0)).collect();
        by_name.extend(embeddings);
        Self { by_name, deepest: model.blocks() + 1 }
    }

    /// That of a parameter of the model or of an adapter, which is as deep as the weight that it adapts.
    pub fn depth(&self, name: &str) -> usize {
        let adapted = || name.split_once(".lora_").map(|(module, _)| format!("{module}.weight"));
        let known = self.by_name.get(name).or_else(|| self.by_name.get(&adapted()?));
        known.copied().unwrap_or(self.deepest)
    }

    /// That of the head.
    pub fn deepest(&self) -> usize {
        self.deepest
    }
}

/// The groups of a model's parameters.
pub struct Groups<'a> {
    rates: LearningRates,
    depths: &'a Depths,
}

impl<'a> Groups<'a> {
    /// Those of a model with parameters of these depths.
    pub fn new(rates: LearningRates, depths: &'a Depths) -> Self {
        Self { rates, depths }
    }

    /// The group of a parameter of the model, or of one of its adapters.
    pub fn group(&self, parameter: &Parameter) -> Group {
        let name = parameter.name();
        let LearningRates { lora_plus_ratio, layer_decay } = self.rates;
        // PEFT's `create_loraplus_optimizer` speeds up vectors (biases, DoRA's magnitudes) as well.
        let faster = name.ends_with(".lora_B.weight") || parameter.tensor().rank() == 1;
        let own = if faster { lora_plus_ratio } else { 1.0 };
        let below = (self.depths.deepest() - self.depths.depth(name)) as i32;
        Group { decayed: is_decayed(name), rate: own * layer_decay.powi(below) }
    }
}

/// What Hugging Face's Trainer decays (`get_decay_parameter_names`): all but norms and whatever has `bias` in its name, as tables of
/// position biases have.
fn is_decayed(name: &str) -> bool {
    !["bias", "norm"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::model::{AdapterConfig, ModelFolder, attach_new};
    use featherlight::nn::Trainable;
    use featherlight::ops::device::Placement;
    use featherlight::randomness::Randomness;
    use std::path::Path;

    /// As transformers 5.23.0's `Trainer.get_decay_parameter_names` sorts them.
    #[test]
    fn norms_and_biases_are_not_decayed_and_all_else_is() {
        for name in [
            "beit.encoder.layer.0.lambda_1",
            "beit.encoder.layer.0.attention.attention.query.weight",
            "beit.embeddings.cls_token",
            "vision_model.embeddings.class_embedding",
            "swinv2.encoder.layers.0.blocks.0.attention.self.logit_scale",
            "vit.encoder.layer.0.attention.attention.query.lora_A.weight",
            "classifier.weight",
        ] {
            assert!(is_decayed(name), "{name}");
        }
        for name in [
            "classifier.bias",
            "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
            "swinv2.encoder.layers.0.blocks.0.attention.self.continuous_position_bias_mlp.0.weight",
            "vision_model.pre_layrnorm.weight",
            "swin.encoder.layers.0.downsample.norm.weight",
            "beit.pooler.layernorm.weight",
        ] {
            assert!(!is_decayed(name), "{name}");
        }
    }

    fn model(architecture: &str) -> Box<dyn Classifier> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(architecture);
        ModelFolder::open(&folder).unwrap().load(Trainable::All, &Placement::CPU).unwrap()
    }

    fn rate(model: &dyn Classifier, rates: LearningRates, name: &str) -> f64 {
        let depths = Depths::of(model);
        let groups = Groups::new(rates, &depths);
        let adapters = model.linears().into_iter().flat_map(|l| l.adapter_parameters().collect::<Vec<_>>());
        let all: Vec<&Parameter> = adapters.chain(model.parameters()).collect();
        groups.group(all.into_iter().find(|parameter| parameter.name() == name).unwrap()).rate
    }

    #[test]
    fn layer_decay_slows_each_block_by_its_distance_from_the_head() {
        let rates = LearningRates { layer_decay: 0.5, ..LearningRates::default() };
        let beit = model("beit-tiny"); // three blocks
        for (name, want) in [
            ("beit.embeddings.cls_token", 0.0625),
            ("beit.encoder.layer.0.lambda_1", 0.125),
            ("beit.encoder.layer.2.output.dense.weight", 0.5),
            ("beit.pooler.layernorm.weight", 1.0),
            ("classifier.weight", 1.0),
        ] {
            assert_eq!(rate(&*beit, rates, name), want, "{name}");
        }
        // A merger belongs to the block before it.
        let swin = model("swin-tiny");
        let name = "swin.encoder.layers.0.downsample.reduction.weight";
        let block = "swin.encoder.layers.0.blocks.1.layernorm_before.weight";
        assert_eq!(rate(&*swin, rates, name), rate(&*swin, rates, block));
        assert!(rate(&*swin, rates, block) < 0.5);
    }

    #[test]
    fn lora_plus_speeds_up_b_and_vectors_and_an_adapter_is_as_deep_as_its_module() {
        let mut beit = model("beit-tiny");
        let adapter = AdapterConfig {
            rank: 2,
            alpha: 2.0,
            rank_stabilized: false,
            dora: false,
            dropout: 0.0,
            targets: vec!["query".to_owned()],
        };
        attach_new(&mut *beit, &adapter, Randomness::new(1)).unwrap();
        let rates = LearningRates { lora_plus_ratio: 16.0, layer_decay: 0.5 };
        let query = "beit.encoder.layer.1.attention.attention.query";
        assert_eq!(rate(&*beit, rates, &format!("{query}.lora_A.weight")), 0.25);
        assert_eq!(rate(&*beit, rates, &format!("{query}.lora_B.weight")), 4.0);
        assert_eq!(rate(&*beit, rates, "classifier.weight"), 1.0);
        assert_eq!(rate(&*beit, rates, "classifier.bias"), 16.0);
    }
}
