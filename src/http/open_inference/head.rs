//! The JSON head of an inference request.
//!
//! `infer.rs` parses it. Every list has a bound that is counted while it is read: JSON of a few bytes an item must not become
//! hundreds of megabytes of structs. Tensor data stays text here; `tensors.rs` reads it once the shape is known to be right.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::error::ApiError;
use crate::http::strict::{Few, MOST, Object};

/// A request without its binary tensors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head<'a> {
    #[serde(default)]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) parameters: Option<Parameters>,
    #[serde(borrow)]
    pub(super) inputs: Few<Object<InputHead<'a>>>,
    #[serde(default)]
    pub(super) outputs: Option<Few<Object<OutputHead>>>,
}

/// A tensor that is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputHead<'a> {
    pub(super) name: String,
    pub(super) shape: Few<u64>,
    pub(super) datatype: String,
    #[serde(default)]
    pub(super) parameters: Option<Parameters>,
    /// As JSON; absent where it is binary.
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// A tensor that is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputHead {
    pub(super) name: String,
    #[serde(default)]
    pub(super) parameters: Option<Parameters>,
}

/// A parameter's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Parameter {
    /// true, false
    Flag(bool),
    /// A whole number from 0.
    Count(u64),
    /// Text, or any other number as it is written.
    Text(String),
}

impl Parameter {
    fn deserialize_from<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ParameterVisitor;

        impl Visitor<'_> for ParameterVisitor {
            type Value = Parameter;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("true, false, a number or a text")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Parameter, E> {
                Ok(Parameter::Flag(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Parameter, E> {
                Ok(Parameter::Count(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Parameter, E> {
                Ok(u64::try_from(value).map_or_else(|_| Parameter::Text(value.to_string()), Parameter::Count))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Parameter, E> {
                Ok(Parameter::Text(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Parameter, E> {
                Ok(Parameter::Text(value.to_owned()))
            }
        }

        deserializer.deserialize_any(ParameterVisitor)
    }
}

/// The parameters of a request or of one tensor. Each is taken by who understands it; what is left is refused by name.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(String, Parameter)>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value(Parameter);

        impl<'de> Deserialize<'de> for Value {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Parameter::deserialize_from(deserializer).map(Self)
            }
        }

        struct ParametersVisitor;

        impl<'de> Visitor<'de> for ParametersVisitor {
            type Value = Parameters;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "an object of at most {MOST} parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
                let mut found: Vec<(String, Parameter)> = Vec::new();
                while let Some((name, Value(value))) = map.next_entry::<String, Value>()? {
                    if found.len() == MOST {
                        return Err(de::Error::invalid_length(MOST + 1, &self));
                    }
                    if found.iter().any(|(known, _)| *known == name) {
                        return Err(de::Error::custom(format_args!("parameter `{name}` is given twice")));
                    }
                    found.push((name, value));
                }
                Ok(Parameters(found))
            }
        }

        deserializer.deserialize_map(ParametersVisitor)
    }
}

impl Parameters {
    /// Takes one that is true or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.take(name, "true or false", |value| match value {
            Parameter::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// Takes one that is a whole number.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        self.take(name, "a whole number from 0", |value| match value {
            Parameter::Count(count) => Some(*count),
            _ => None,
        })
    }

    /// Takes one that is a text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.take(name, "a text", |value| match value {
            Parameter::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// Refuses what nobody has taken; `of` says whose parameters they are.
    pub(super) fn finish(self, of: &str) -> Result<(), ApiError> {
        match self.0.first() {
            Some((name, _)) => {
                let name: String = name.chars().take(100).collect();
                Err(ApiError::BadRequest(format!("parameter `{name}` of {of} is not served")))
            }
            None => Ok(()),
        }
    }

    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&Parameter) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(place) = self.0.iter().position(|(known, _)| known == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(place);
        let wrong = || ApiError::BadRequest(format!("parameter `{name}` must be {wanted}"));
        read(&value).map(Some).ok_or_else(wrong)
    }
}

impl<'a> Head<'a> {
    /// Reads the JSON.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(json)
            .map(|Object(head)| head)
            .map_err(|error| ApiError::BadRequest(format!("the JSON of the request cannot be used: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Head::parse(json.as_bytes())
            .err()
            .map_or_else(|| panic!("{json} was taken"), |error| error.to_string())
    }

    #[test]
    fn long_lists_are_refused_while_they_are_read() {
        let long = |item: &str| vec![item; 17].join(",");
        let input = r#"{"name":"image","shape":[1],"datatype":"BYTES","data":["AAAA"]}"#;
        for json in [
            format!(r#"{{"inputs":[{}]}}"#, long(input)),
            format!(r#"{{"inputs":[{{"name":"image","shape":[{}],"datatype":"BYTES"}}]}}"#, long("1")),
            format!(r#"{{"inputs":[{input}],"outputs":[{}]}}"#, long(r#"{"name":"scores"}"#)),
        ] {
            assert!(refusal(&json).contains("at most 16"), "{json}");
        }
        let names: Vec<_> = (0..17).map(|index| format!("\"p{index}\":1")).collect();
        assert!(
            refusal(&format!(r#"{{"inputs":[],"parameters":{{{}}}}}"#, names.join(",")))
                .contains("at most 16")
        );
    }

    #[test]
    fn parameters_are_flat_given_once_and_all_understood() {
        assert!(
            refusal(r#"{"inputs":[],"parameters":{"a":[[],[]]}}"#)
                .contains("true, false, a number or a text")
        );
        assert!(refusal(r#"{"inputs":[],"parameters":{"a":1,"a":2}}"#).contains("twice"));
        assert!(refusal(r#"{"inputs":[],"extra":1}"#).contains("extra"));
        let head =
            Head::parse(br#"{"inputs":[],"parameters":{"a":true,"b":7,"c":"x","d":-1.5}}"#).expect("a head");
        let mut parameters = head.parameters.expect("some");
        assert_eq!(parameters.flag("a").expect("a flag"), Some(true));
        assert_eq!(parameters.flag("a").expect("taken"), None);
        assert_eq!(parameters.count("b").expect("a count"), Some(7));
        assert!(parameters.count("c").is_err());
        assert_eq!(parameters.text("d").expect("text"), Some("-1.5".to_owned()));
        assert!(parameters.finish("the request").is_ok());
        let head = Head::parse(br#"{"inputs":[],"parameters":{"priority":1}}"#).expect("a head");
        let refused = head.parameters.expect("some").finish("the request").expect_err("one is left");
        assert!(refused.to_string().contains("`priority` of the request"), "{refused}");
    }
}
