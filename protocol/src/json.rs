//! A JSON text that is passed on as it came: values are merged by key and never parsed deeper.

mod members;

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

pub use self::members::{MAX_DEPTH, Members, ObjectError};

/// A valid, compact-or-not JSON text. Cheap to clone.
///
/// In JSON it is embedded as it is; in the binary codec it is a string.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawJson(Arc<str>);

impl RawJson {
    /// Checks that `text` is one JSON value.
    ///
    /// # Errors
    /// The parser's error if it is not.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Self(raw.get().into()))
    }

    /// A `text` that the caller has already checked to be one JSON value, without white space around it.
    pub fn checked(text: &str) -> Self {
        Self(text.into())
    }

    /// The JSON of `value`.
    ///
    /// # Errors
    /// If `value` cannot be a JSON value (a map whose keys are not strings).
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_string(value).map(|text| Self(text.into()))
    }

    /// A JSON object of `members`, in their order; nothing is parsed.
    pub fn object<'m>(members: impl IntoIterator<Item = (&'m str, &'m RawJson)>) -> Self {
        let mut writer = ObjectWriter::new(String::new());
        for (key, value) in members {
            writer.raw(key, value.as_str());
        }
        writer.into_json()
    }

    /// The value without whitespace between its tokens.
    pub fn compact(raw: &RawValue) -> Self {
        Self(compact(raw.get()).into())
    }

    /// A JSON string.
    pub fn string(text: &str) -> Self {
        let mut json = String::with_capacity(text.len() + 2);
        push_string(&mut json, text);
        Self(json.into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the value as a `T`.
    ///
    /// # Errors
    /// If the shape is another one.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }

    /// `null`.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// `{}`.
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// OpenWhisk's reading of an annotation as a boolean: `false`, `0`, `""` and `null` are false, all else is true.
    pub fn is_truthy(&self) -> bool {
        let text = self.0.trim();
        match text.as_bytes().first() {
            Some(b'f' | b'n') => false,
            Some(b'"') => text != "\"\"",
            Some(b'-' | b'0'..=b'9') => text.parse::<f64>() != Ok(0.0),
            _ => true,
        }
    }

    /// True for the JSON value `null`.
    pub fn is_null(&self) -> bool {
        self.0.trim() == "null"
    }
}

impl From<serde_json::Value> for RawJson {
    fn from(value: serde_json::Value) -> Self {
        Self(value.to_string().into())
    }
}

impl From<u64> for RawJson {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl From<bool> for RawJson {
    fn from(value: bool) -> Self {
        Self(if value { "true" } else { "false" }.into())
    }
}

impl From<&RawValue> for RawJson {
    fn from(value: &RawValue) -> Self {
        Self(value.get().into())
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
            raw.serialize(serializer)
        } else {
            serializer.serialize_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            Ok(Self(raw.get().into()))
        } else {
            let text = String::deserialize(deserializer)?;
            Ok(Self(text.into()))
        }
    }
}

/// Writes a JSON object member by member, values as they are.
#[derive(Debug)]
pub struct ObjectWriter {
    text: String,
    empty: bool,
}

impl ObjectWriter {
    /// Appends the object to `text`.
    pub fn new(mut text: String) -> Self {
        text.push('{');
        Self { text, empty: true }
    }

    /// Adds `key`, whose value is the JSON text `value`.
    pub fn raw(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text.push_str(value);
    }

    /// Adds `key`, whose value is the string `value`.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        push_string(&mut self.text, value);
    }

    /// Adds `key`; the caller appends its value to the text.
    pub fn value(&mut self, key: &str) -> &mut String {
        self.key(key);
        &mut self.text
    }

    /// Adds the members of the JSON object `object` as they are.
    pub fn members_of(&mut self, object: &str) {
        let inner = object.trim().trim_start_matches('{').trim_start();
        // Only the last brace is the object's own.
        let inner = inner.strip_suffix('}').unwrap_or(inner).trim_end();
        if !inner.is_empty() {
            self.comma();
            self.text.push_str(inner);
        }
    }

    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }

    /// The object as a value. Whoever added raw texts vouches that they were JSON.
    pub fn into_json(self) -> RawJson {
        RawJson(self.finish().into())
    }

    fn comma(&mut self) {
        if !self.empty {
            self.text.push(',');
        }
        self.empty = false;
    }

    fn key(&mut self, key: &str) {
        self.comma();
        push_string(&mut self.text, key);
        self.text.push(':');
    }
}

/// Appends `text` as a JSON string.
pub fn push_string(json: &mut String, text: &str) {
    json.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        json.push_str(&text[plain..at]);
        plain = at + 1;
        match escape {
            "" => json.push_str(&format!("\\u{byte:04x}")),
            escape => json.push_str(escape),
        }
    }
    json.push_str(&text[plain..]);
    json.push('"');
}

/// `text` without whitespace outside its strings. `text` is valid JSON.
pub fn compact(text: &str) -> Cow<'_, str> {
    let mut in_string = false;
    let mut escaped = false;
    let mut significant = |c: char| {
        if in_string {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            return true;
        }
        in_string = c == '"';
        !matches!(c, ' ' | '\n' | '\r' | '\t')
    };
    match text.char_indices().find(|(_, c)| !significant(*c)) {
        None => Cow::Borrowed(text),
        // The whitespace found lies outside strings and changed nothing in the state, so the rest goes on from there.
        Some((at, _)) => {
            let mut kept = String::with_capacity(text.len());
            kept.push_str(&text[..at]);
            kept.extend(text[at..].chars().filter(|c| significant(*c)));
            Cow::Owned(kept)
        }
    }
}

#[cfg(test)]
mod tests;
