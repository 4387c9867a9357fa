//! `--model DIR` and `--model name=DIR`: folders, with names where they have some.

use std::path::PathBuf;

/// A folder, and the name that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFolder {
    /// What clients call it; without, the folder says.
    pub name: Option<String>,
    /// Where it lies.
    pub folder: PathBuf,
}

/// Reads `DIR`, `name=DIR`, or a list `name=DIR,name=DIR`. A name has letters, digits, `.`, `_` and `-`; a folder whose path begins
/// like one and goes on with `=` is written `./name=…`.
pub fn named_folders(text: &str) -> Result<Vec<NamedFolder>, String> {
    let pieces: Vec<&str> = text.split(',').collect();
    // A path may hold commas; a list is one of names alone.
    if pieces.len() > 1 && pieces.iter().all(|piece| split(piece).is_some()) {
        return pieces.into_iter().map(one).collect();
    }
    Ok(vec![one(text)?])
}

fn one(text: &str) -> Result<NamedFolder, String> {
    let (name, folder) = match split(text) {
        Some((name, folder)) => (Some(name.to_owned()), folder),
        None => (None, text),
    };
    if folder.is_empty() {
        return Err("a folder wanted: DIR or name=DIR".to_owned());
    }
    Ok(NamedFolder { name, folder: folder.into() })
}

fn split(text: &str) -> Option<(&str, &str)> {
    let (name, folder) = text.split_once('=')?;
    let fit = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    (!name.is_empty() && name.chars().all(fit)).then_some((name, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(Option<String>, String)> {
        let folders = named_folders(text).unwrap_or_default().into_iter();
        folders.map(|named| (named.name, named.folder.display().to_string())).collect()
    }

    #[test]
    fn a_folder_may_have_a_name_and_a_list_is_one_of_names() {
        let named = |name: &str, folder: &str| (Some(name.to_owned()), folder.to_owned());
        assert_eq!(read("models/birds"), [(None, "models/birds".to_owned())]);
        assert_eq!(read("birds-v1.2=/m/birds"), [named("birds-v1.2", "/m/birds")]);
        assert_eq!(read("a=x,b=y"), [named("a", "x"), named("b", "y")]);
        assert_eq!(read("/m/a,b"), [(None, "/m/a,b".to_owned())], "a path with a comma");
        assert_eq!(read("./a=b"), [(None, "./a=b".to_owned())], "a path with an equals sign");
        for wrong in ["", "a=", "a=x,b="] {
            assert!(named_folders(wrong).is_err(), "{wrong}");
        }
    }
}
