//! What `fit` can be told, as the file of a comparison may say it.
//!
//! The program hands over the flags of its own command line, so that a setting that `fit` learns can be compared at once.
//! Here a setting is a key of TOML (`lora_rank`), there a flag (`--lora-rank`).

use crate::settings::FitSettings;
use std::ffi::OsString;
use std::path::Path;
use toml::{Table, Value};

/// What stands behind a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: given or not.
    Switch,
    /// A number or a word.
    Value,
    /// A path; in the file, relative to it.
    Path,
    /// Several, separated by commas.
    List,
}

/// A setting of `fit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its key: the flag's name with `_`.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// Keys that cannot stand beside it.
    pub excludes: Vec<String>,
    /// The key and the value that it needs beside it; the key's absence will do.
    pub only_with: Option<(&'static str, &'static str)>,
}

/// From the words after `fit` to what they mean, or why they mean nothing.
pub type Parse = dyn Fn(&[OsString]) -> Result<FitSettings, String>;

/// The command line of `fit`.
pub struct FitCommand {
    /// What a variant may set.
    pub flags: Vec<Flag>,
    /// The program's own reading of a command line; the environment has no say in it.
    pub parse: Box<Parse>,
}

impl FitCommand {
    /// The flag of that key.
    pub fn flag(&self, key: &str) -> Option<&Flag> {
        self.flags.iter().find(|flag| flag.name == key)
    }

    /// The words that say `settings`, whose paths are relative to `root`.
    pub fn words(&self, settings: &Table, root: &Path) -> Vec<OsString> {
        let mut words = Vec::new();
        for (key, value) in settings {
            let mut word = OsString::from(format!("--{}", key.replace('_', "-")));
            let takes = self.flag(key).map_or(Takes::Value, |flag| flag.takes);
            match (takes, value) {
                (Takes::Switch, Value::Boolean(false)) => continue,
                (Takes::Switch, _) => {}
                (Takes::Path, value) => {
                    word.push("=");
                    word.push(root.join(text(value)));
                }
                (Takes::Value | Takes::List, value) => {
                    word.push("=");
                    word.push(text(value));
                }
            }
            words.push(word);
        }
        words
    }

    /// What of the combination `own` of a grid applies beside the rest of it and `base`: LoRA's rank only where the method is
    /// LoRA.
    pub fn applicable(&self, base: &Table, mut own: Table) -> Table {
        let mut beside = base.clone();
        beside.extend(own.clone());
        own.retain(|key, _| self.applies(key, &beside));
        own
    }

    /// Whether a key means something beside `settings`.
    fn applies(&self, key: &str, settings: &Table) -> bool {
        let Some((other, wanted)) = self.flag(key).and_then(|flag| flag.only_with) else { return true };
        settings.get(other).is_none_or(|value| text(value) == wanted)
    }

    /// `own` laid over `base`. What `base` says and `own` contradicts is left out: LoRA's rank where the method is another, the
    /// crop's scale where nothing is cropped.
    pub fn overlay(&self, base: &Table, own: &Table) -> Table {
        let mut settings = base.clone();
        for (key, value) in own {
            let excludes = self.flag(key).map_or(&[][..], |flag| &flag.excludes);
            if *value != Value::Boolean(false) {
                settings.retain(|other, _| !excludes.iter().any(|excluded| excluded == other));
            }
        }
        settings.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        let applies = |key: &str| own.contains_key(key) || self.applies(key, &settings);
        let kept: Vec<String> = settings.keys().filter(|key| applies(key)).cloned().collect();
        settings.retain(|key, _| kept.iter().any(|kept| kept == key));
        settings
    }
}

/// A value as a person would type it behind a flag.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Datetime(date) => date.to_string(),
        // No setting is a table; the plan refuses one.
        Value::Table(_) => String::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Some flags of `fit`; their command lines are not read.
    pub fn some_flags() -> FitCommand {
        let flag = |name: &str, takes, excludes: &[&str], only_with| Flag {
            name: name.to_owned(),
            takes,
            excludes: excludes.iter().map(|name| (*name).to_owned()).collect(),
            only_with,
        };
        FitCommand {
            flags: vec![
                flag("model", Takes::Path, &[], None),
                flag("method", Takes::Value, &[], None),
                flag("epochs", Takes::Value, &[], None),
                flag("learning_rate", Takes::Value, &[], None),
                flag("seed", Takes::Value, &[], None),
                flag("lora_rank", Takes::Value, &[], Some(("method", "lora"))),
                flag("lora_target", Takes::List, &[], Some(("method", "lora"))),
                flag("no_augment", Takes::Switch, &["crop_scale"], None),
                flag("crop_scale", Takes::List, &["no_augment"], None),
            ],
            parse: Box::new(|_| Err("not read here".to_owned())),
        }
    }

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn settings_become_the_words_that_a_person_would_type() {
        let settings = table(
            "model = 'm/vit'\nlearning_rate = 5e-5\nepochs = 3\nno_augment = true\ncrop_scale = [0.4, 1]\nlora_target = 'query,value'",
        );
        let words = some_flags().words(&settings, Path::new("/here"));
        let wanted = [
            "--model=/here/m/vit",
            "--learning-rate=0.00005",
            "--epochs=3",
            "--no-augment",
            "--crop-scale=0.4,1",
            "--lora-target=query,value",
        ];
        assert_eq!(words, wanted.map(OsString::from));
        assert!(some_flags().words(&table("no_augment = false"), Path::new("")).is_empty());
    }

    #[test]
    fn a_default_that_a_variant_contradicts_is_left_out() {
        let defaults = table("crop_scale = 0.4\nlora_rank = 8\nepochs = 2");
        let over = |own: &str| some_flags().overlay(&defaults, &table(own));
        assert_eq!(over("method = 'full'"), table("crop_scale = 0.4\nepochs = 2\nmethod = 'full'"));
        assert_eq!(over("no_augment = true"), table("lora_rank = 8\nepochs = 2\nno_augment = true"));
        assert_eq!(over("no_augment = false").len(), 4);
        assert_eq!(over("method = 'full'\nlora_rank = 4")["lora_rank"], Value::Integer(4));
    }
}
