//! Which files hold a model's weights, and what an index of shards may name.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// All weights in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Which tensor lies in which of several files.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// What `torch.save` wrote.
pub(crate) const PICKLE: &str = "pytorch_model.bin";

/// In the order in which a model folder is read: the first that is there holds the weights.
pub(crate) const IN_ORDER: [&str; 3] = [SINGLE, INDEX, PICKLE];

/// The files that an index names, each once: plain names, as an index must not reach outside its folder.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn shards(index: &Value) -> Result<BTreeSet<String>, String> {
    let map = index.get("weight_map").and_then(|map| map.as_object()).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| "no `weight_map` from tensor names to files".to_owned())?;
    let plain = |name: &&str| is_plain_name(name);
    map.values()
        .map(|name| match name.as_str().filter(plain) {
            Some(name) => Ok(name.to_owned()),
            None => Err(format!("`weight_map` names {name}, a plain file name wanted")),
        })
        .collect()
}

/// Whether a name is that of a file in a folder, and leads nowhere else.
pub(crate) fn is_plain_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_plain_files_each_once() {
        let json = serde_json::json!({"weight_map": {"a": "x-1", "b": "x-2", "c": "x-1"}});
        assert_eq!(shards(&json).expect("shards").into_iter().collect::<Vec<_>>(), ["x-1", "x-2"]);
        for name in ["../x", "/etc/x", "a/x", "..", ".", ""] {
            let error = shards(&serde_json::json!({"weight_map": {"a": name}})).expect_err(name);
            assert!(error.contains("plain file name"), "{name}: {error}");
        }
        for json in ["{}", r#"{"weight_map": {}}"#, "[]", r#"{"weight_map": {"a": 1}}"#] {
            assert!(shards(&serde_json::from_str(json).expect("JSON")).is_err(), "{json}");
        }
    }
}
