//! Parameters and annotations: ordered key-value lists with JSON values.

use std::{borrow::Cow, collections::HashMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use crate::{
    error::Malformed,
    json::{Members, RawJson},
    messages,
};

/// One parameter. Annotations use `key` and `value` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub key: Cow<'static, str>,
    pub value: RawJson,
    /// Delivered in the environment of `/init` instead of the arguments of `/run`.
    pub init: bool,
    /// Algorithm that encrypted `value`, if any.
    pub encryption: Option<String>,
}

impl Parameter {
    pub fn new(key: impl Into<Cow<'static, str>>, value: impl Into<RawJson>) -> Self {
        Self { key: key.into(), value: value.into(), init: false, encryption: None }
    }
}

/// Parameters in the order given; of equal keys the last wins, so each key is there once.
///
/// In JSON an array of `{"key":…,"value":…[,"init":true][,"encryption":…]}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters(pub Vec<Parameter>);

impl Parameters {
    pub fn get(&self, key: &str) -> Option<&RawJson> {
        self.0.iter().find(|parameter| parameter.key == key).map(|parameter| &parameter.value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the value of `key`, at its place if it is there, else at the end.
    pub fn set(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<RawJson>) {
        let set = Parameter::new(key, value);
        match self.0.iter_mut().find(|parameter| parameter.key == set.key) {
            Some(parameter) => *parameter = set,
            None => self.0.push(set),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.0.retain(|parameter| parameter.key != key);
    }

    /// These with those of `over` on top: whole entries are replaced by key, `init` included.
    pub fn overlaid_by(&self, over: &Parameters) -> Parameters {
        Self::distinct(self.0.iter().chain(&over.0).cloned())
    }

    /// What counts against the size limits: for each entry the bytes of its key and of its compact value.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|parameter| (parameter.key.len() + parameter.value.as_str().len()) as u64).sum()
    }

    /// Reads the member `parameters` or `annotations` of a body; values are kept compact.
    ///
    /// # Errors
    /// One text for whatever is wrong, as upstream.
    ///
    /// Source: apache/openwhisk `Parameter.scala`.
    pub fn from_json(value: &RawValue) -> Result<Self, Malformed> {
        let entries: Vec<Members<'_>> = serde_json::from_str(value.get()).map_err(|_| malformed())?;
        let entries: Vec<Parameter> = entries.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Self::distinct(entries.into_iter()))
    }

    fn distinct(entries: impl Iterator<Item = Parameter>) -> Self {
        let mut kept: Vec<Parameter> = Vec::new();
        let mut places: HashMap<Cow<'static, str>, usize> = HashMap::new();
        for entry in entries {
            match places.get(&entry.key) {
                Some(place) => kept[*place] = entry,
                None => {
                    places.insert(entry.key.clone(), kept.len());
                    kept.push(entry);
                }
            }
        }
        Self(kept)
    }
}

impl FromIterator<Parameter> for Parameters {
    fn from_iter<I: IntoIterator<Item = Parameter>>(entries: I) -> Self {
        Self::distinct(entries.into_iter())
    }
}

fn malformed() -> Malformed {
    Malformed::new(messages::PARAMETERS_MALFORMED)
}

fn entry(members: &Members<'_>) -> Result<Parameter, Malformed> {
    let key = members.get("key").ok_or_else(malformed)?;
    let key: String = serde_json::from_str(key.get()).map_err(|_| malformed())?;
    let value = RawJson::compact(members.get("value").ok_or_else(malformed)?);
    let init = match members.get("init") {
        None => false,
        Some(init) => serde_json::from_str(init.get()).map_err(|_| malformed())?,
    };
    let encryption = match members.get("encryption") {
        None => None,
        Some(name) if name.get() == "null" && members.get("init").is_some() => None,
        Some(name) => Some(serde_json::from_str(name.get()).map_err(|_| malformed())?),
    };
    Ok(Parameter { key: key.into(), value, init, encryption })
}

impl Serialize for Parameter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return (&self.key, &self.value, self.init, &self.encryption).serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("key", &self.key)?;
        map.serialize_entry("value", &self.value)?;
        if self.init {
            map.serialize_entry("init", &true)?;
        }
        if let Some(algorithm) = &self.encryption {
            map.serialize_entry("encryption", algorithm)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            let members = Members::parse(raw.get()).map_err(serde::de::Error::custom)?;
            return entry(&members).map_err(serde::de::Error::custom);
        }
        let (key, value, init, encryption) = Deserialize::deserialize(deserializer)?;
        Ok(Self { key, value, init, encryption })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    fn read(json: &str) -> Result<Parameters, Malformed> {
        Parameters::from_json(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn json_in_and_out() {
        let json = r#"[ {"value": {"b": [1, 2]}, "key": "a", "x": 1}, {"key":"n","value":null},
            {"key":"i","value":"s","init":true}, {"key":"j","value":1,"init":false},
            {"key":"e","value":"c","encryption":"aes-128"}, {"key":"f","value":2,"init":true,"encryption":null},
            {"key":"n","value":7} ]"#;
        let parameters = read(json).unwrap();
        assert_eq!(
            serde_json::to_string(&parameters).unwrap(),
            concat!(
                r#"[{"key":"a","value":{"b":[1,2]}},{"key":"n","value":7},{"key":"i","value":"s","init":true},"#,
                r#"{"key":"j","value":1},{"key":"e","value":"c","encryption":"aes-128"},{"key":"f","value":2,"init":true}]"#
            )
        );
        assert_eq!(parameters.size(), ("a{\"b\":[1,2]}n7i\"s\"j1e\"c\"f2").len() as u64);
    }

    #[test]
    fn whatever_is_wrong_has_one_text() {
        for json in [
            "{}",
            "null",
            "[1]",
            "[null]",
            r#"[{"key":"a"}]"#,
            r#"[{"value":1}]"#,
            r#"[{"key":1,"value":1}]"#,
            r#"[{"key":"a","value":1,"init":"true"}]"#,
            r#"[{"key":"a","value":1,"init":null}]"#,
            r#"[{"key":"a","value":1,"encryption":null}]"#,
            r#"[{"key":"a","value":1,"encryption":3}]"#,
        ] {
            assert_eq!(read(json).unwrap_err().0, "parameters malformed!", "{json}");
        }
    }

    #[test]
    fn upper_entries_replace_lower_ones_whole() {
        let lower = read(r#"[{"key":"a","value":1,"init":true},{"key":"b","value":2}]"#).unwrap();
        let upper = read(r#"[{"key":"a","value":3},{"key":"c","value":4,"init":true}]"#).unwrap();
        let merged = read(r#"[{"key":"a","value":3},{"key":"b","value":2},{"key":"c","value":4,"init":true}]"#);
        assert_eq!(lower.overlaid_by(&upper), merged.unwrap());
    }

    proptest! {
        #[test]
        fn json_and_codec_round_trip(keys in prop::collection::vec((".*", any::<i32>(), any::<bool>(), any::<Option<bool>>()), 0..6)) {
            let parameters: Parameters = keys
                .into_iter()
                .map(|(key, value, init, encrypted)| Parameter {
                    key: key.into(),
                    value: RawJson::of(&value).unwrap(),
                    init,
                    encryption: encrypted.map(|_| "aes-256".to_owned()),
                })
                .collect();
            let json = serde_json::to_string(&parameters).unwrap();
            prop_assert_eq!(&read(&json).unwrap(), &parameters);
            prop_assert_eq!(&serde_json::from_str::<Parameters>(&json).unwrap(), &parameters);
            prop_assert_eq!(&codec::decode::<Parameters>(&codec::encode(&parameters)).unwrap(), &parameters);
        }
    }
}
