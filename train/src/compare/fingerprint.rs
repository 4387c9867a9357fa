//! What tells one set of photos or one model folder from another, without reading every byte.
//!
//! A comparison keeps a finished run as long as what it was made of is the same. Names, labels and sizes are looked at, not
//! times: a copy is the same set.

use crate::dataset::Dataset;
use std::io;
use std::path::Path;

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same in every version of every program, and no defence against forgery.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        // The length first, so that the bytes of neighbours cannot be mistaken for each other.
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Of a data set: its labels, and the name, label and size of each photo.
///
/// # Errors
/// If a photo is not there.
pub fn photos(dataset: &Dataset) -> io::Result<String> {
    let mut hash = Fnv::new();
    dataset.labels.iter().for_each(|label| hash.add(label.as_bytes()));
    for sample in &dataset.samples {
        let size = std::fs::metadata(&sample.path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", sample.path.display())))?
            .len();
        hash.add(sample.name.as_bytes());
        hash.add(&sample.label_index.to_le_bytes());
        hash.add(&size.to_le_bytes());
    }
    Ok(format!("{} photos, {}", dataset.samples.len(), hash.text()))
}

/// Of a model folder: the content of its JSON files, the name and the size of its weights.
///
/// # Errors
/// If the folder cannot be read.
pub fn model(folder: &Path) -> io::Result<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut hash = Fnv::new();
    for name in names {
        let path = folder.join(&name);
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension {
            "json" => hash.add(&std::fs::read(&path)?),
            "safetensors" | "bin" => hash.add(&std::fs::metadata(&path)?.len().to_le_bytes()),
            _ => continue,
        }
        hash.add(name.as_encoded_bytes());
    }
    Ok(hash.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::LabelSpace;

    #[test]
    fn another_size_name_or_label_of_a_photo_is_another_set_and_a_copy_is_the_same() {
        let set = |photos: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in photos {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            let dataset = Dataset::open(folder.path(), None, LabelSpace::Found { model: &[] }).unwrap();
            super::photos(&dataset).unwrap()
        };
        let first = set(&[("a/1.jpg", "x"), ("b/2.jpg", "y")]);
        assert!(first.starts_with("2 photos, "));
        assert_eq!(first, set(&[("a/1.jpg", "x"), ("b/2.jpg", "z")]));
        for other in [
            [("a/1.jpg", "x"), ("b/2.jpg", "yy")],
            [("a/1.jpg", "x"), ("b/3.jpg", "y")],
            [("a/1.jpg", "x"), ("c/2.jpg", "y")],
        ] {
            assert_ne!(first, set(&other));
        }
    }

    #[test]
    fn another_config_or_size_of_weights_is_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for (file, content) in [("config.json", "{}"), ("config.json", "[]"), ("model.safetensors", "12")] {
            std::fs::write(folder.path().join(file), content).unwrap();
            seen.push(model(folder.path()).unwrap());
        }
        std::fs::write(folder.path().join("README.md"), "a card").unwrap();
        assert_eq!(model(folder.path()).unwrap(), seen[2]);
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    }
}
