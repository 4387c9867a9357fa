//! Where figures go: printed as they come, or gathered into one JSON object.

use serde_json::Value;
use std::error::Error;
use std::fmt::Display;
use std::io::Write;

/// Prints figures as they come, or gathers them into one object.
pub struct Report {
    gathered: Option<serde_json::Map<String, Value>>,
}

impl Report {
    /// For people, or `json`.
    pub fn new(json: bool) -> Self {
        Self { gathered: json.then(serde_json::Map::new) }
    }

    /// A line, or several, for people.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn line(&self, text: &dyn Display) -> std::io::Result<()> {
        if self.gathered.is_none() { writeln!(std::io::stdout(), "{text}") } else { Ok(()) }
    }

    /// A member of the object.
    pub fn json(&mut self, name: &str, value: Value) {
        if let Some(gathered) = &mut self.gathered {
            gathered.insert(name.to_owned(), value);
        }
    }

    /// The same for both.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn figure(&mut self, name: &str, value: Value, text: &dyn Display) -> std::io::Result<()> {
        self.json(name, value);
        self.line(text)
    }

    /// Prints the object, if anything was gathered.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(self) -> Result<(), Box<dyn Error>> {
        if let Some(gathered) = self.gathered.filter(|gathered| !gathered.is_empty()) {
            writeln!(std::io::stdout(), "{}", Value::Object(gathered))?;
        }
        Ok(())
    }
}
