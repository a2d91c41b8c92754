//! A JSON text that is passed on as it came: values are merged by key and never parsed deeper.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Values nested deeper than this are refused, so that nobody who reads them exhausts a stack.
pub const MAX_DEPTH: usize = 512;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn members_keep_values_as_they_came() {
        let members = Members::parse(r#" {"a" : 1.50, "b\u0041": [ 1 ], "a": null} "#).unwrap();
        assert_eq!(members.len(), 3);
        assert_eq!(members.get("bA").unwrap().get(), "[ 1 ]");
        assert_eq!(members.get("a").unwrap().get(), "null", "the last of equal keys counts");
        assert!(members.optional("a").is_none());
    }

    #[test]
    fn what_is_no_object_says_why() {
        assert!(matches!(Members::parse("[1]"), Err(ObjectError::NotAnObject)));
        assert!(matches!(Members::parse("3"), Err(ObjectError::NotAnObject)));
        assert!(matches!(Members::parse("[1"), Err(ObjectError::Syntax(_))));
        assert!(matches!(Members::parse("{\"a\":}"), Err(ObjectError::Syntax(_))));
        assert!(matches!(Members::parse(""), Err(ObjectError::Syntax(_))));
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(Members::parse(&deep(MAX_DEPTH - 1)).is_ok());
        assert!(matches!(Members::parse(&deep(MAX_DEPTH)), Err(ObjectError::TooDeep)));
        assert!(Members::parse(&format!("{{\"a\":\"{}\"}}", "[".repeat(9999))).is_ok(), "brackets in strings");
    }

    #[test]
    fn truthiness_is_openwhisks() {
        for (json, truthy) in [
            ("true", true),
            ("false", false),
            ("0", false),
            ("-0.0", false),
            ("0.1", true),
            ("\"\"", false),
            ("\"0\"", true),
            ("null", false),
            ("{}", true),
            ("[]", true),
        ] {
            assert_eq!(RawJson::parse(json).unwrap().is_truthy(), truthy, "{json}");
        }
    }

    #[test]
    fn members_of_an_object_are_added_as_they_are() {
        let mut writer = ObjectWriter::new(String::new());
        writer.members_of("{ }");
        writer.raw("a", "1");
        writer.members_of(r#"{ "b": {} }"#);
        writer.members_of("{}");
        assert_eq!(writer.finish(), r#"{"a":1,"b": {}}"#);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn strings_read_back(text in ".*") {
            let json = RawJson::string(&text);
            prop_assert_eq!(json.read::<String>().unwrap(), text);
        }

        #[test]
        fn compact_drops_only_whitespace(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), serde_json::to_string(&value).unwrap());
        }

        #[test]
        fn members_of_never_breaks_an_object(value in any_json()) {
            let object = serde_json::json!({ "x": value });
            let mut writer = ObjectWriter::new(String::new());
            writer.members_of(&serde_json::to_string_pretty(&object).unwrap());
            let written: serde_json::Value = serde_json::from_str(&writer.finish()).unwrap();
            prop_assert_eq!(written, object);
        }
    }
}
