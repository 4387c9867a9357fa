//! What tells one set of photos or one model folder from another.
//!
//! A comparison keeps a finished run as long as what it was made of is the same, and a run goes on only with what it began with.
//! Times are not looked at: a copy is the same set.

use crate::dataset::Dataset;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// XXH3, 64 bits: the same in every version of every program, and no defence against forgery.
struct Fingerprint(Xxh3);

impl Fingerprint {
    fn new() -> Self {
        Self(Xxh3::new())
    }

    fn add(&mut self, bytes: &[u8]) {
        // The length first, so that the bytes of neighbours cannot be mistaken for each other.
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The size of a file and its bytes.
    fn add_file(&mut self, path: &Path, buffer: &mut [u8]) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut file = File::open(path).map_err(named)?;
        self.0.update(&file.metadata().map_err(named)?.len().to_le_bytes());
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.0.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(named(error)),
            }
        }
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0.digest())
    }
}

/// Of a data set: its labels, and the name, the label and the content of each photo.
///
/// # Errors
/// If a photo cannot be read.
pub fn photos(dataset: &Dataset) -> io::Result<String> {
    let (mut fingerprint, mut buffer) = (Fingerprint::new(), vec![0; CHUNK]);
    dataset.labels.iter().for_each(|label| fingerprint.add(label.as_bytes()));
    for sample in &dataset.samples {
        fingerprint.add(sample.name.as_bytes());
        fingerprint.add(&sample.label_index.to_le_bytes());
        fingerprint.add_file(&sample.path, &mut buffer)?;
    }
    Ok(format!("{} photos, {}", dataset.samples.len(), fingerprint.text()))
}

/// The same where the content of each photo is known already, as a hash of its bytes.
pub(crate) fn hashed_photos(dataset: &Dataset, contents: &[u128]) -> String {
    let mut fingerprint = Fingerprint::new();
    dataset.labels.iter().for_each(|label| fingerprint.add(label.as_bytes()));
    for (sample, content) in dataset.samples.iter().zip(contents) {
        fingerprint.add(sample.name.as_bytes());
        fingerprint.add(&sample.label_index.to_le_bytes());
        fingerprint.add(&content.to_le_bytes());
    }
    format!("{} photos, {}", contents.len(), fingerprint.text())
}

/// Of a model folder: the names and the contents of its two files of settings and of its weights.
///
/// # Errors
/// If a file of them cannot be read.
pub fn model(folder: &Path) -> io::Result<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let (mut fingerprint, mut buffer) = (Fingerprint::new(), vec![0; CHUNK]);
    for name in names {
        let path = folder.join(&name);
        // Not those that others leave beside them, as a pull its record.
        let settings = name == "config.json" || name == "preprocessor_config.json";
        let text = name.to_string_lossy();
        let weights =
            [".safetensors", ".safetensors.index.json", ".bin"].iter().any(|end| text.ends_with(end));
        if (settings || weights && !text.starts_with('.')) && path.is_file() {
            fingerprint.add(name.as_encoded_bytes());
            fingerprint.add_file(&path, &mut buffer)?;
        }
    }
    Ok(fingerprint.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::LabelSpace;

    #[test]
    fn another_content_name_or_label_of_a_photo_is_another_set_and_a_copy_is_the_same() {
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
        assert_eq!(first, set(&[("a/1.jpg", "x"), ("b/2.jpg", "y")]));
        for other in [
            [("a/1.jpg", "x"), ("b/2.jpg", "z")],
            [("a/1.jpg", "x"), ("b/2.jpg", "yy")],
            [("a/1.jpg", "x"), ("b/3.jpg", "y")],
            [("a/1.jpg", "x"), ("c/2.jpg", "y")],
        ] {
            assert_ne!(first, set(&other));
        }
    }

    #[test]
    fn another_config_or_other_weights_are_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        let files = [
            ("config.json", "{}"),
            ("config.json", "[]"),
            ("model.safetensors", "12"),
            ("model.safetensors", "13"),
        ];
        for (file, content) in files {
            std::fs::write(folder.path().join(file), content).unwrap();
            seen.push(model(folder.path()).unwrap());
        }
        for other in ["README.md", ".featherlight-pull.json", ".writing.bin"] {
            std::fs::write(folder.path().join(other), "no part of the model").unwrap();
        }
        assert_eq!(model(folder.path()).unwrap(), seen[3]);
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
