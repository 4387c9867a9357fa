//! The keys of `serve`: those of the flags, and those of files, which are read again at SIGHUP.
//!
//! A key file holds one key a line; blank lines and lines that begin with `#` are skipped. No message holds a key.

use crate::cli;
use featherlight::http::check_key;
use std::path::{Path, PathBuf};

/// Where keys come from.
#[derive(Clone)]
pub struct KeySources {
    api: Source,
    admin: Source,
}

#[derive(Clone)]
struct Source {
    typed: Vec<String>,
    file: Option<PathBuf>,
}

/// All keys, by what they open.
pub struct Keys {
    pub api: Vec<String>,
    pub admin: Vec<String>,
}

impl KeySources {
    pub fn of(arguments: &cli::Serve) -> Self {
        let source =
            |typed: &[String], file: &Option<PathBuf>| Source { typed: typed.to_vec(), file: file.clone() };
        Self {
            api: source(&arguments.api_key, &arguments.api_key_file),
            admin: source(&arguments.admin_key, &arguments.admin_key_file),
        }
    }

    /// Whether a file may have changed what there is.
    pub fn have_files(&self) -> bool {
        self.api.file.is_some() || self.admin.file.is_some()
    }

    /// Reads the files, and adds what was typed.
    ///
    /// # Errors
    /// If a file cannot be read or used; says which, and why.
    pub fn read(&self) -> Result<Keys, String> {
        Ok(Keys { api: self.api.read("--api-key-file")?, admin: self.admin.read("--admin-key-file")? })
    }
}

impl Source {
    fn read(&self, flag: &str) -> Result<Vec<String>, String> {
        let mut keys = self.typed.clone();
        if let Some(file) = &self.file {
            let named = |problem: String| format!("{flag} {}: {problem}", file.display());
            let found = read(file).map_err(named)?;
            if found.is_empty() {
                return Err(named("there is no key in it; it holds one a line".to_owned()));
            }
            keys.extend(found);
        }
        Ok(keys)
    }
}

fn read(file: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let lines = text.lines().map(str::trim).enumerate();
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    keys.map(|(index, key)| {
        check_key(key).map(|()| key.to_owned()).map_err(|problem| format!("line {}: {problem}", index + 1))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys");
        std::fs::write(&file, text).expect("written");
        (folder, Source { typed: vec!["typed".into()], file: Some(file) })
    }

    #[test]
    fn a_file_holds_a_key_a_line_and_comments() {
        let (_folder, source) = source("# ours\n\n first \nsecond#not-a-comment\r\n");
        assert_eq!(
            source.read("--api-key-file"),
            Ok(vec!["typed".into(), "first".into(), "second#not-a-comment".into()])
        );
    }

    #[test]
    fn a_file_without_keys_or_with_bad_ones_is_refused_by_name_and_without_the_key() {
        for (text, told) in [("# nothing\n\n", "no key"), ("good\ntwo words\n", "line 2")] {
            let (folder, source) = source(text);
            let error = source.read("--api-key-file").expect_err(text);
            let named = [told, "--api-key-file", &*folder.path().to_string_lossy()];
            assert!(named.iter().all(|part| error.contains(part)) && !error.contains("two words"), "{error}");
        }
        let missing = Source { typed: Vec::new(), file: Some("/no/such/file".into()) };
        assert!(missing.read("--api-key-file").is_err_and(|error| error.contains("/no/such/file")));
    }
}
