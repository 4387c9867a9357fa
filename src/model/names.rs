//! The names of modules: transformers v4's, which checkpoints have, v5's, which running models have since 5.9, and what people
//! may call a module when they choose what to adapt.

/// How an architecture's modules are called beside their v4 names.
#[derive(Debug)]
pub(super) struct Naming {
    /// First names of the modules that are called so.
    prefixes: &'static [&'static str],
    /// A part of the path, and v5's in its place.
    path: Option<(&'static str, &'static str)>,
    /// v4 ending of a module → the other.
    endings: &'static [(&'static str, &'static str)],
    /// Whether v5 calls them so; else the other names are only understood.
    renamed: bool,
}

/// transformers' `conversion_mapping.py`, per architecture.
const NAMINGS: [Naming; 4] = [
    Naming {
        prefixes: &["beit", "vit"],
        path: Some(("encoder.layer.", "layers.")),
        endings: &[
            ("attention.attention.relative_position_bias", "relative_position_bias"),
            ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"),
            ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ],
        renamed: true,
    },
    Naming { prefixes: &["swin"], path: None, endings: &SWIN, renamed: true },
    Naming { prefixes: &["swinv2"], path: None, endings: &SWIN, renamed: false },
    Naming {
        prefixes: &["vision_model"],
        path: None,
        endings: &[
            ("self_attn.q_proj", "self_attn.query"),
            ("self_attn.k_proj", "self_attn.key"),
            ("self_attn.v_proj", "self_attn.value"),
            ("self_attn.out_proj", "self_attn.o_proj"),
        ],
        renamed: false,
    },
];

const SWIN: [(&str, &str); 6] = [
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

impl Naming {
    /// The naming of a module with this v4 name, if its architecture has another beside v4's.
    pub(super) fn of(module: &str) -> Option<&'static Self> {
        let first = module.split('.').next().unwrap_or(module);
        NAMINGS.iter().find(|naming| naming.prefixes.contains(&first))
    }

    /// The other name of a module.
    fn other(&self, v4: &str) -> String {
        let name = match self.path {
            Some((old, new)) => v4.replace(old, new),
            None => v4.to_owned(),
        };
        let ending =
            |name: &str, ending: &str| name.strip_suffix(ending).is_some_and(|rest| rest.ends_with('.'));
        match self.endings.iter().find(|(old, _)| ending(&name, old)) {
            Some((old, new)) => format!("{}{new}", &name[..name.len() - old.len()]),
            None => name,
        }
    }

    /// A target and what it is called in the other naming: `query` → `query`, `q_proj`. A name that means several modules of a
    /// block (`dense`) has several others.
    pub(super) fn names_in_both(&self, target: &str) -> Vec<String> {
        let other = |name: &str| {
            // As short as the target was, where the short name means no other module (`dense` means three).
            let short = name.rsplit('.').next().unwrap_or(name);
            let meant = self.endings.iter().filter(|(v4, v5)| means(v4, short) || means(v5, short)).count();
            if target.contains('.') || meant > 1 { name.to_owned() } else { short.to_owned() }
        };
        let others =
            self.endings.iter().filter_map(|(v4, v5)| match (means(v4, target), means(v5, target)) {
                (true, false) => Some(other(v5)),
                (false, true) => Some(other(v4)),
                _ => None,
            });
        std::iter::once(target.to_owned()).chain(others).collect()
    }
}

/// The v5 name of a module with a v4 name: `beit.encoder.layer.0.attention.attention.query` → `beit.layers.0.attention.q_proj`.
pub fn v5_name(v4: &str) -> String {
    match Naming::of(v4) {
        Some(naming) if naming.renamed => naming.other(v4),
        _ => v4.to_owned(),
    }
}

/// PEFT's word for every linear module but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// A target as a person types it, one of a list with commas.
///
/// # Errors
/// If nothing is left of it, in words.
pub fn parse_target(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a module's name wanted between the commas".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// Whether PEFT's `target` means the module with this v4 name: its last names, in either naming, or [`ALL_LINEAR`].
pub fn matches_target(module: &str, target: &str) -> bool {
    target == ALL_LINEAR
        || means(module, target)
        || Naming::of(module).is_some_and(|naming| means(&naming.other(module), target))
}

/// PEFT's rule: the whole name, or its end from a dot on.
fn means(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEIT: &str = "beit.encoder.layer.3.attention.attention.query";

    fn names_in_both(module: &str, target: &str) -> Vec<String> {
        Naming::of(module).map(|naming| naming.names_in_both(target)).unwrap_or_default()
    }

    #[test]
    fn a_target_is_written_in_both_namings() {
        assert_eq!(names_in_both(BEIT, "query"), ["query", "q_proj"]);
        assert_eq!(names_in_both(BEIT, "v_proj"), ["v_proj", "value"]);
        let output = ["attention.output.dense", "attention.o_proj"];
        assert_eq!(names_in_both(BEIT, output[0]), output);
        assert_eq!(names_in_both(BEIT, "fc1"), ["fc1", "intermediate.dense"]);
        assert_eq!(names_in_both(BEIT, "nothing"), ["nothing"]);
        assert_eq!(names_in_both("swin.encoder", "self.query"), ["self.query", "attention.q_proj"]);
        assert_eq!(names_in_both("vision_model.encoder", "query"), ["query", "q_proj"]);
    }

    #[test]
    fn all_linear_means_every_module() {
        assert!(matches_target(BEIT, ALL_LINEAR) && matches_target("swin.x.reduction", "all-linear"));
    }

    #[test]
    fn a_target_means_the_same_modules_in_both_namings() {
        for module in [
            BEIT,
            "vit.encoder.layer.0.attention.attention.query",
            "swin.encoder.layers.0.blocks.1.attention.self.query",
            "swinv2.encoder.layers.0.blocks.1.attention.self.query",
            "vision_model.encoder.layers.0.self_attn.q_proj",
        ] {
            for target in names_in_both(module, "query").iter().chain(&names_in_both(module, "q_proj")) {
                assert!(matches_target(module, target), "{module}: {target}");
            }
            assert!(!matches_target(module, "key") && !matches_target(module, "fc2"), "{module}");
        }
        assert!(!matches_target("beit.encoder.layer.3.intermediate.dense", "fc2"));
    }

    /// As `named_modules()` of transformers 5.23.0 lists them.
    #[test]
    fn running_models_have_the_names_of_transformers_5() {
        for (v4, v5) in [
            (BEIT, "beit.layers.3.attention.q_proj"),
            ("vit.encoder.layer.0.output.dense", "vit.layers.0.mlp.fc2"),
            (
                "swin.encoder.layers.0.blocks.0.attention.self.value",
                "swin.encoder.layers.0.blocks.0.attention.v_proj",
            ),
            ("swin.encoder.layers.0.downsample.reduction", "swin.encoder.layers.0.downsample.reduction"),
            (
                "swinv2.encoder.layers.0.blocks.0.output.dense",
                "swinv2.encoder.layers.0.blocks.0.output.dense",
            ),
            (
                "vision_model.encoder.layers.0.self_attn.q_proj",
                "vision_model.encoder.layers.0.self_attn.q_proj",
            ),
            ("classifier", "classifier"),
        ] {
            assert_eq!(v5_name(v4), v5);
        }
    }
}
