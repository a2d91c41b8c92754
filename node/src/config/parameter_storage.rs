//! `[parameter_storage]`: what values of parameters are encrypted with, at rest. OpenWhisk's `whisk.parameter-storage`, with
//! as many keys as wanted.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ConfigError;
use crate::entities::encryption::{Keyring, KeyringError};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    /// The id of the key that new values are encrypted with; `off` or `noop`: none. Default `off`.
    current: Option<String>,
    /// Base64 by id. A key stays here for as long as a value may be stored that was encrypted with it.
    keys: BTreeMap<String, String>,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Written {
    pub fn checked(self) -> Result<Keyring, ConfigError> {
        Keyring::new(self.current.as_deref(), &self.keys).map_err(|error| {
            let key = match error {
                KeyringError::Missing(_) => "parameter_storage.current",
                KeyringError::Id(_) | KeyringError::Key { .. } => "parameter_storage.keys",
            };
            ConfigError::invalid(key, error.to_string())
        })
    }
}
