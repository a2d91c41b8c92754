//! Parameters and annotations: ordered key-value lists with JSON values.

use serde::{Deserialize, Serialize};

use crate::json::RawJson;

/// One parameter. Annotations use `key` and `value` only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    pub key: String,
    pub value: RawJson,
    /// Delivered in the environment of `/init` instead of the arguments of `/run`.
    pub init: bool,
    /// Algorithm that encrypted `value`, if any.
    pub encryption: Option<String>,
}

/// Parameters in the order given; of equal keys the last wins, so each key is there once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters(pub Vec<Parameter>);

impl Parameters {
    pub fn get(&self, key: &str) -> Option<&RawJson> {
        self.0.iter().find(|parameter| parameter.key == key).map(|parameter| &parameter.value)
    }
}
