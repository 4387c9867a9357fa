//! The fields of a `config.json`, read with defaults and with errors that name the file and the field.
//!
//! Called by `config` and by the architectures for their own fields.

use super::ModelError;
use crate::nn::Activation;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A JSON object of a file.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) json: &'a Value,
    /// The name of the field that it is the value of, where it is not the whole file.
    pub(super) within: Option<&'static str>,
    pub(super) file: &'a Path,
}

impl<'a> Fields<'a> {
    pub(super) fn wrong(self, field: &'static str, problem: impl Into<String>) -> ModelError {
        let field = match self.within {
            Some(outer) => format!("{outer}.{field}"),
            None => field.to_owned(),
        };
        ModelError::Config { file: PathBuf::from(self.file), field, problem: problem.into() }
    }

    fn get(self, field: &str) -> Option<&'a Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn text(self, field: &'static str) -> Result<Option<&'a str>, ModelError> {
        self.get(field)
            .map(|v| v.as_str().ok_or_else(|| self.wrong(field, format!("is {v}, text wanted"))))
            .transpose()
    }

    pub(super) fn flag(self, field: &'static str, default: bool) -> Result<bool, ModelError> {
        let value = self.get(field);
        value.map_or(Ok(default), |v| {
            v.as_bool().ok_or_else(|| self.wrong(field, format!("is {v}, true or false wanted")))
        })
    }

    /// A whole number of at least 1 and at most a million: sizes beyond would only exhaust memory.
    pub(super) fn count(self, field: &'static str, default: usize) -> Result<usize, ModelError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        match value.as_u64() {
            Some(count @ 1..=1_000_000) => Ok(count as usize),
            _ => Err(self.wrong(field, format!("is {value}, a whole number from 1 to 1000000 wanted"))),
        }
    }

    pub(super) fn number(self, field: &'static str, default: f64) -> Result<f64, ModelError> {
        let value = self.get(field);
        value.map_or(Ok(default), |v| {
            v.as_f64().ok_or_else(|| self.wrong(field, format!("is {v}, a number wanted")))
        })
    }

    /// A finite number of at least 0: an epsilon, a deviation.
    pub(super) fn not_negative(self, field: &'static str, default: f64) -> Result<f64, ModelError> {
        match self.number(field, default)? {
            value if value.is_finite() && value >= 0.0 => Ok(value),
            value => Err(self.wrong(field, format!("is {value}, a number of at least 0 wanted"))),
        }
    }

    /// A probability that leaves something: from 0 up to, but not, 1.
    pub(super) fn share(self, field: &'static str, default: f64) -> Result<f64, ModelError> {
        match self.number(field, default)? {
            value if (0.0..1.0).contains(&value) => Ok(value),
            value => Err(self.wrong(field, format!("is {value}, a number from 0 up to, but not, 1 wanted"))),
        }
    }

    /// A side of something square: a number, or twice the same in a list.
    pub(super) fn side(self, field: &'static str, default: usize) -> Result<usize, ModelError> {
        match self.size(field, default)? {
            (height, width) if height == width => Ok(height),
            (height, width) => Err(self.wrong(field, format!("is [{height}, {width}]; supported: a square"))),
        }
    }

    /// A whole number of at least 1 for each of some stages.
    pub(super) fn counts(self, field: &'static str, default: &[usize]) -> Result<Vec<usize>, ModelError> {
        let counts = self.numbers(field, default)?;
        match counts.is_empty() || counts.contains(&0) {
            true => Err(self.wrong(field, "is no list of whole numbers of at least 1")),
            false => Ok(counts),
        }
    }

    /// Whole numbers of at most a million.
    pub(super) fn numbers(self, field: &'static str, default: &[usize]) -> Result<Vec<usize>, ModelError> {
        let Some(value) = self.get(field) else { return Ok(default.to_vec()) };
        let number = |value: &Value| value.as_u64().filter(|n| *n <= 1_000_000).map(|n| n as usize);
        let numbers = value.as_array().and_then(|list| list.iter().map(number).collect());
        numbers.ok_or_else(|| self.wrong(field, format!("is {value}, a list of whole numbers wanted")))
    }

    /// `hidden_act`.
    pub(super) fn activation(self, default: Activation) -> Result<Activation, ModelError> {
        let Some(name) = self.text("hidden_act")? else { return Ok(default) };
        let known = Activation::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, activation)| *activation).ok_or_else(|| {
            let known = Activation::NAMES.map(|(name, _)| name).join(", ");
            self.wrong("hidden_act", format!("is {name}; supported: {known}"))
        })
    }

    /// Refuses flags that ask for what is not built.
    pub(super) fn refuse_flags(self, fields: &[&'static str]) -> Result<(), ModelError> {
        for field in fields {
            if self.flag(field, false)? {
                return Err(self.wrong(field, "is true, which is not supported"));
            }
        }
        Ok(())
    }

    /// Refuses a width that does not fall into equal heads.
    pub(super) fn check_heads(
        self,
        field: &'static str,
        width: usize,
        heads: usize,
    ) -> Result<(), ModelError> {
        match (1..=1_000_000).contains(&width) && width.is_multiple_of(heads) {
            true => Ok(()),
            false => {
                Err(self.wrong(field, format!("is {width}, no multiple of {heads} heads up to 1000000")))
            }
        }
    }

    /// Refuses photos that are not in colour, or smaller than a patch.
    pub(super) fn check_photo(
        self,
        channels: usize,
        size: (usize, usize),
        patch: usize,
    ) -> Result<(), ModelError> {
        if channels != 3 {
            return Err(self.wrong("num_channels", format!("is {channels}; supported: 3")));
        }
        if patch == 0 || size.0.max(size.1) > 1_000_000 {
            let problem = format!("is {size:?} with patches of {patch}; up to 1000000 is supported");
            return Err(self.wrong("image_size", problem));
        }
        if size.0 < patch || size.1 < patch {
            return Err(self.wrong("image_size", format!("is smaller than a patch of {patch}")));
        }
        Ok(())
    }

    /// A side, or [height, width].
    pub(super) fn size(self, field: &'static str, default: usize) -> Result<(usize, usize), ModelError> {
        let Some(Value::Array(sides)) = self.get(field) else {
            let side = self.count(field, default)?;
            return Ok((side, side));
        };
        match sides.iter().map(Value::as_u64).collect::<Vec<_>>()[..] {
            [Some(height @ 1..=1_000_000), Some(width @ 1..=1_000_000)] => {
                Ok((height as usize, width as usize))
            }
            _ => Err(self.wrong(field, "is neither a side nor [height, width]")),
        }
    }
}
