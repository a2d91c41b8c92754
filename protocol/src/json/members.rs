//! The first level of a JSON object.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::RawJson;

/// Values nested deeper than this are refused, so that nobody who reads them exhausts a stack.
pub const MAX_DEPTH: usize = 512;

/// Why a text is not a JSON object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    #[error("JSON object expected")]
    NotAnObject,
    #[error("JSON is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// The members of a JSON object, one level deep: keys unescaped, values as they came. A key may be there twice;
/// [`Members::get`] then finds the last.
#[derive(Debug)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads the object's first level. The syntax of all of it is checked.
    ///
    /// # Errors
    /// [`ObjectError`]
    pub fn parse(text: &'a str) -> Result<Self, ObjectError> {
        if depth(text) > MAX_DEPTH {
            return Err(ObjectError::TooDeep);
        }
        if text.trim_start().starts_with('{') {
            return Ok(serde_json::from_str(text)?);
        }
        let _: &RawValue = serde_json::from_str(text)?;
        Err(ObjectError::NotAnObject)
    }

    /// The object that `text` holds, if these members were parsed from it: not checked again.
    pub fn to_json(&self, text: &str) -> RawJson {
        RawJson(text.into())
    }

    /// The value of `key`, `null` included.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The value of `key` unless it is `null`: for optional members both mean absent.
    pub fn optional(&self, key: &str) -> Option<&'a RawValue> {
        self.get(key).filter(|value| value.get() != "null")
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A key, borrowed when it holds no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// How deep the arrays and objects of a JSON text are nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}
