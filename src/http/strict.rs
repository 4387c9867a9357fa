//! JSON read strictly: an object is an object, a list has a bound.
//!
//! serde takes a list for a struct, field by field, which no document of ours tells of; and JSON of a few bytes an item must not
//! become hundreds of megabytes of structs. `json.rs` and `open_inference` read their bodies through these.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// What is read from a JSON object and nothing else.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// The longest list that is no list of photos: inputs, outputs, dimensions, parameters.
pub(super) const MOST: usize = 16;

/// A list of at most [`MOST`] items.
#[derive(Debug)]
pub(super) struct Few<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FewVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for FewVisitor<T> {
            type Value = Few<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of at most {MOST} items")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() == MOST {
                        return Err(de::Error::invalid_length(MOST + 1, &self));
                    }
                    items.push(item);
                }
                Ok(Few(items))
            }
        }

        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named<'a> {
        #[serde(borrow)]
        name: &'a str,
    }

    #[test]
    fn a_list_is_no_object_and_a_long_list_is_refused_while_it_is_read() {
        let read = serde_json::from_str::<Few<Object<Named<'_>>>>;
        let few = read(r#"[{"name": "a"}, {"name": "b"}]"#).expect("objects");
        assert_eq!(few.0.iter().map(|Object(named)| named.name).collect::<Vec<_>>(), ["a", "b"]);
        let refused = read(r#"[["a"]]"#).expect_err("a list");
        assert!(refused.to_string().contains("expected an object"), "{refused}");
        // What comes after the bound is not even looked at.
        let long = format!("[{}, nonsense", vec![r#"{"name": "a"}"#; MOST + 1].join(","));
        assert!(read(&long).expect_err("too many").to_string().contains("at most 16"));
        assert!(read("{}").is_err() && read(r#"[{"name": "a", "more": 1}]"#).is_err());
    }
}
