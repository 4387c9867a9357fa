//! Reads typed fields from a settings file in JSON, and refuses what it cannot take by file and field.
//!
//! `processor` and `timm` read their files through this. A field set to `null` counts as absent, as it does in
//! transformers. No field has a default here: defaults are the reader's decision.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// A side may be this long at most, in pixels; a larger one in a settings file is a slip.
const MAX_SIDE: u64 = 16_384;

/// Why preprocessing settings were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The file could not be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON.
    #[error("{}: not valid JSON: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// A field that is needed is absent.
    #[error("{}: no `{field}` (wanted: {want})", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The field, with the fields it lies in.
        field: String,
        /// What would be right.
        want: &'static str,
    },
    /// A field has a value of the wrong type or out of range.
    #[error("{}: `{field}` is {found} (wanted: {want})", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The field, with the fields it lies in.
        field: String,
        /// The value found, as JSON.
        found: String,
        /// What would be right.
        want: &'static str,
    },
    /// A field asks for something that is not built.
    #[error("{}: `{field}` is {found}, which is not supported ({want})", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The field, with the fields it lies in.
        field: String,
        /// The value found, as JSON.
        found: String,
        /// What is supported.
        want: &'static str,
    },
}

/// Height and width in pixels, neither zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

/// The fields of one JSON object, and where it is from.
pub struct Fields<'a> {
    file: PathBuf,
    /// What comes before a field's name in a message: empty, or `size.`.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, called `name` within `file` (empty for the file's own top level).
    pub fn new(file: PathBuf, name: &str, value: &'a Value) -> Result<Self, ProcessorError> {
        let Some(map) = value.as_object() else {
            let field = if name.is_empty() { "the whole file" } else { name };
            return Err(ProcessorError::Wrong {
                file,
                field: field.to_owned(),
                found: brief(value),
                want: "an object",
            });
        };
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        Ok(Self { file, prefix, map })
    }

    /// The field's value; `null` counts as absent.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// All fields that are not `null`.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    pub fn missing(&self, field: &str, want: &'static str) -> ProcessorError {
        ProcessorError::Missing { file: self.file.clone(), field: self.full(field), want }
    }

    pub fn wrong(&self, field: &str, value: &Value, want: &'static str) -> ProcessorError {
        ProcessorError::Wrong { file: self.file.clone(), field: self.full(field), found: brief(value), want }
    }

    /// Refuses the field for what it asks for.
    pub fn unsupported(&self, field: &str, want: &'static str) -> ProcessorError {
        let found = self.map.get(field).map_or_else(|| "absent".to_owned(), brief);
        ProcessorError::Unsupported { file: self.file.clone(), field: self.full(field), found, want }
    }

    pub fn text(&self, field: &str) -> Result<Option<&'a str>, ProcessorError> {
        let read = |value: &'a Value| value.as_str().ok_or_else(|| self.wrong(field, value, "a string"));
        self.get(field).map(read).transpose()
    }

    pub fn flag(&self, field: &str) -> Result<Option<bool>, ProcessorError> {
        let read =
            |value: &'a Value| value.as_bool().ok_or_else(|| self.wrong(field, value, "true or false"));
        self.get(field).map(read).transpose()
    }

    pub fn positive(&self, field: &str) -> Result<Option<f64>, ProcessorError> {
        let read = |value: &'a Value| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| self.wrong(field, value, "a number above 0"))
        };
        self.get(field).map(read).transpose()
    }

    /// Three numbers, or one for all three channels.
    pub fn channels(&self, field: &str) -> Result<Option<[f64; 3]>, ProcessorError> {
        let read = |value: &'a Value| {
            let three = match value {
                Value::Number(number) => number.as_f64().map(|number| [number; 3]),
                Value::Array(list) => {
                    let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
                    numbers.and_then(|numbers| numbers.try_into().ok())
                }
                _ => None,
            };
            let three = three.filter(|three: &[f64; 3]| three.iter().all(|number| number.is_finite()));
            three
                .ok_or_else(|| self.wrong(field, value, "three numbers, one for each of red, green and blue"))
        };
        self.get(field).map(read).transpose()
    }

    /// Three numbers above zero.
    pub fn deviations(&self, field: &str) -> Result<Option<[f64; 3]>, ProcessorError> {
        let three = self.channels(field)?;
        if let (Some(value), Some(numbers)) = (self.get(field), three)
            // What is not above 0 as an f32 would be divided by.
            && numbers.iter().any(|number| *number as f32 <= 0.0)
        {
            return Err(self.wrong(field, value, "three numbers above 0"));
        }
        Ok(three)
    }

    /// A number of pixels.
    pub fn side(&self, field: &str) -> Result<Option<usize>, ProcessorError> {
        self.get(field).map(|value| self.side_of(field, value)).transpose()
    }

    /// `value`, found at `field`, as a number of pixels.
    pub fn side_of(&self, field: &str, value: &Value) -> Result<usize, ProcessorError> {
        match value.as_u64() {
            Some(side @ 1..=MAX_SIDE) => Ok(side as usize),
            _ => Err(self.wrong(field, value, "a number of pixels, 1 to 16384")),
        }
    }

    /// The fields of an object that is a field of this one.
    pub fn within(&self, field: &str, value: &'a Value) -> Result<Self, ProcessorError> {
        Self::new(self.file.clone(), &self.full(field), value)
    }

    fn full(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }
}

/// A value as JSON, cut to a length that fits a message.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
