//! Reading the TOML of a comparison: every wrong key, type and name is an error that says where it stands and what would be
//! right there.

use super::flags::{FitCommand, Takes, text};
use super::run::LOCK;
use std::fmt;
use std::path::PathBuf;
use toml::{Table, Value};

/// A file that describes no comparison.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct PlanError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is no TOML.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// A key that means nothing there.
    #[error("{place}: unknown key `{key}`; allowed here: {allowed}")]
    UnknownKey {
        /// The table that holds it.
        place: String,
        /// The key.
        key: String,
        /// The keys that mean something.
        allowed: String,
    },
    /// A key that must be there.
    #[error("{place}: `{key}` is missing: {wanted}")]
    Missing {
        /// The table that lacks it.
        place: String,
        /// The key.
        key: &'static str,
        /// What it says.
        wanted: &'static str,
    },
    /// A value of another kind.
    #[error("{place}: `{key}` is {found}; wanted: {wanted}")]
    Type {
        /// The table that holds it.
        place: String,
        /// The key.
        key: String,
        /// What is wanted.
        wanted: &'static str,
        /// What is there.
        found: String,
    },
    /// Anything else, in words.
    #[error("{place}: {problem}")]
    Wrong {
        /// Where.
        place: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Problem {
    pub(super) fn wrong(place: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::Wrong { place: place.to_string(), problem: problem.into() }
    }
}

/// A table of the file and its place in it, in words.
pub(super) struct Section {
    pub place: String,
    pub table: Table,
}

impl Section {
    /// `table` with `_` for `-` in its keys.
    pub fn new(place: String, table: Table) -> Result<Self, Problem> {
        let mut normalised = Table::new();
        for (key, value) in table {
            let name = key.replace('-', "_");
            if normalised.insert(name.clone(), value).is_some() {
                return Err(Problem::wrong(place, format!("`{name}` is there twice, with - and with _")));
            }
        }
        Ok(Self { place, table: normalised })
    }

    /// Every key must be one of these.
    pub fn only(&self, allowed: &[&str]) -> Result<(), Problem> {
        match self.table.keys().find(|key| !allowed.contains(&key.as_str())) {
            Some(key) => Err(self.unknown(key, allowed)),
            None => Ok(()),
        }
    }

    pub fn unknown(&self, key: &str, allowed: &[&str]) -> Problem {
        Problem::UnknownKey { place: self.place.clone(), key: key.to_owned(), allowed: allowed.join(", ") }
    }

    pub fn mistyped(&self, key: &str, wanted: &'static str, found: &Value) -> Problem {
        let found = match found {
            Value::Array(values) if values.is_empty() => "an empty list".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Datetime(_) => "a date".to_owned(),
            Value::Boolean(value) => value.to_string(),
            Value::String(text) => format!("the text {text:?}"),
            Value::Integer(_) | Value::Float(_) => format!("the number {}", text(found)),
        };
        Problem::Type { place: self.place.clone(), key: key.to_owned(), wanted, found }
    }

    /// A text that is not empty.
    pub fn text(&self, key: &str) -> Result<Option<String>, Problem> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.clone())),
            Some(other) => Err(self.mistyped(key, "a text that is not empty", other)),
        }
    }

    /// A list of things, not empty.
    pub fn list<T>(
        &self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Problem> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let wrong = || self.mistyped(key, wanted, value);
        let values = value.as_array().filter(|values| !values.is_empty()).ok_or_else(wrong)?;
        values.iter().map(|value| read(value).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
    }

    /// The seeds that each get a run, none twice.
    pub fn seeds(&self) -> Result<Option<Vec<u64>>, Problem> {
        let read = |value: &Value| value.as_integer().and_then(|seed| u64::try_from(seed).ok());
        let Some(seeds) = self.list("seeds", "a list of whole numbers from 0 up", read)? else {
            return Ok(None);
        };
        if let Some(twice) = seeds.iter().enumerate().find(|(at, seed)| seeds[..*at].contains(seed)) {
            return Err(Problem::wrong(&self.place, format!("`seeds` holds {} twice", twice.1)));
        }
        if self.table.contains_key("seed") {
            return Err(Problem::wrong(
                &self.place,
                "`seed` and `seeds` are both there; one of them says it all",
            ));
        }
        Ok(Some(seeds))
    }

    /// Checks that every key but those of `own` is a setting of `fit` with a value of its kind; in a grid a list of values
    /// as well.
    pub fn check_settings(&self, fit: &FitCommand, own: &[&str], grid: bool) -> Result<(), Problem> {
        for (key, value) in self.table.iter().filter(|(key, _)| !own.contains(&key.as_str())) {
            let Some(flag) = fit.flag(key) else {
                if ["data", "val", "val_split", "image_root", "test"].contains(&key.as_str()) {
                    let problem =
                        format!("`{key}` belongs at the top of the file: all variants see the same photos");
                    return Err(Problem::wrong(&self.place, problem));
                }
                let names: Vec<&str> =
                    own.iter().copied().chain(fit.flags.iter().map(|flag| flag.name.as_str())).collect();
                return Err(self.unknown(key, &names));
            };
            let wrong = |wanted| self.mistyped(key, wanted, value);
            let fits = |value: &Value| match (flag.takes, value) {
                (Takes::Switch, value) => value.is_bool(),
                (Takes::Path, value) => value.is_str(),
                (Takes::List, Value::Array(values)) => !values.is_empty() && values.iter().all(is_plain),
                (Takes::Value | Takes::List, value) => is_plain(value),
            };
            let alternatives = value.as_array().filter(|_| grid);
            let right = match alternatives {
                Some(values) => !values.is_empty() && values.iter().all(fits),
                None => fits(value),
            };
            if !right {
                return Err(wrong(match (flag.takes, grid) {
                    (Takes::Switch, false) => "true or false",
                    (Takes::Switch, true) => "true, false or a list of both",
                    (Takes::Path, false) => "a path",
                    (Takes::Path, true) => "a path or a list of paths",
                    (Takes::Value, false) => "a number or a text (lists of values stand in a [[grid]])",
                    (Takes::Value, true) => "a number, a text or a list of these",
                    (Takes::List, false) => "a text or a list",
                    (Takes::List, true) => "a text or a list of texts and lists",
                }));
            }
        }
        Ok(())
    }

    /// The settings of `fit` in it.
    pub fn settings(&self, own: &[&str]) -> Table {
        let kept = self.table.iter().filter(|(key, _)| !own.contains(&key.as_str()));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

fn is_plain(value: &Value) -> bool {
    value.is_str() || value.is_integer() || value.is_float()
}

/// A name that can be a folder's beside the files of the comparison.
pub(super) fn check_name(place: &str, name: &str) -> Result<(), Problem> {
    let allowed = |letter: char| letter.is_alphanumeric() || "-_.+=,@ ".contains(letter);
    let lower = name.to_lowercase();
    let problem = if name.is_empty() || name.len() > 100 {
        "it must have from 1 to 100 bytes"
    } else if !name.chars().all(allowed) {
        "it names a folder: letters, digits, spaces and - _ . + = , @ are allowed"
    } else if name.starts_with('.') || name.trim() != name {
        "it may neither start with a point nor start or end with a space"
    } else if lower.starts_with("comparison.") || lower == LOCK {
        "a file of the comparison itself is called so"
    } else {
        return Ok(());
    };
    Err(Problem::wrong(place, format!("the name `{name}` cannot be used: {problem}")))
}
