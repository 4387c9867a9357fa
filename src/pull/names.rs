//! Names of repositories and revisions: checked once, where a person typed them, and safe in an address and a path from then on.

use std::fmt;
use std::str::FromStr;

/// Longest name of an owner or a model on the hub, characters.
const LONGEST_NAME: usize = 96;
/// Longest revision taken, bytes; git refuses longer references on most file systems.
const LONGEST_REVISION: usize = 255;

/// A model repository: `ORG/NAME`, or the bare `NAME` of the hub's oldest ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository(String);

impl Repository {
    /// `ORG/NAME`, as it stands in an address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder's name for a revision of it: `ORG--NAME`, and `ORG--NAME@REVISION` beside `main`.
    pub fn folder_name(&self, revision: &Revision) -> String {
        let name = self.0.replace('/', "--");
        if *revision == Revision::default() {
            return name;
        }
        // Encoded, so that no two revisions share a folder.
        format!("{name}@{}", percent_encoded(&revision.0))
    }
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |name: &str| {
            let edge = |letter: char| letter == '-' || letter == '.';
            (1..=LONGEST_NAME).contains(&name.len())
                && name.chars().all(is_plain)
                && !name.starts_with(edge)
                && !name.ends_with(edge)
        };
        // The hub itself allows none of these two.
        let doubled = ["--", ".."].iter().any(|pair| text.contains(pair));
        match text.split('/').collect::<Vec<_>>()[..] {
            [model] | [_, model] if doubled || model.ends_with(".git") => Err(wanted()),
            [model] if name(model) => Ok(Self(text.to_owned())),
            [owner, model] if name(owner) && name(model) => Ok(Self(text.to_owned())),
            _ => Err(wanted()),
        }
    }
}

fn wanted() -> String {
    "a model of the hub wanted, ORG/NAME: letters, digits, `.`, `_` and `-`, as in microsoft/beit-base-patch16-224".to_owned()
}

impl fmt::Display for Repository {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A branch, a tag, a commit, or a reference such as `refs/pr/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(String);

impl Default for Revision {
    /// `main`, as everywhere on the hub.
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl Revision {
    /// As a person typed it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Revision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let odd = |letter: char| letter.is_control() || letter.is_whitespace() || letter == '\\';
        let wrong = text.is_empty()
            || text.len() > LONGEST_REVISION
            || text.contains("..")
            || text.contains(odd)
            || text.starts_with(['/', '-'])
            || text.ends_with('/');
        if wrong {
            return Err("a branch, a tag, a commit or a reference such as refs/pr/1 wanted".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Letters, digits, `.`, `_` and `-`: what needs no care in an address or a path.
pub(super) fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&letter)
}

/// Text as one segment of an address: a revision's slashes must not look like folders.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match char::from(byte) {
            letter if is_plain(letter) => encoded.push(letter),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_one_or_two_plain_names() {
        for good in ["gpt2", "microsoft/beit-base-patch16-224", "timm/beit_large.x_in1k", "a/b"] {
            assert_eq!(good.parse::<Repository>().expect("a name").as_str(), good);
        }
        let long = "x".repeat(97);
        let bad = [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "../etc",
            "a/..",
            "a--b",
            "-a",
            "a/b.",
            "a b",
            "a/b?c",
            "ä",
            "a/b.git",
            "https://huggingface.co/a/b",
            &long,
        ];
        for bad in bad {
            let error = bad.parse::<Repository>().expect_err(bad);
            assert!(error.contains("ORG/NAME"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_revision_may_have_slashes_and_is_one_segment_of_an_address() {
        for (good, encoded) in [
            ("main", "main"),
            ("refs/pr/1", "refs%2Fpr%2F1"),
            ("v1.0+é", "v1.0%2B%C3%A9"),
            ("a%2F", "a%252F"),
        ] {
            let revision = good.parse::<Revision>().expect("a revision");
            assert_eq!(percent_encoded(revision.as_str()), encoded);
        }
        for bad in ["", "a b", "../..", "a..b", "-x", "/a", "a/", "a\n", "a\\b"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_folder_is_named_after_model_and_revision() {
        let repository: Repository = "a/b".parse().expect("a name");
        let name = |revision: &str| repository.folder_name(&revision.parse().expect("a revision"));
        assert_eq!(name("main"), "a--b");
        assert_eq!(name("refs/pr/1"), "a--b@refs%2Fpr%2F1");
        assert_ne!(name("v/1"), name("v--1"));
    }
}
