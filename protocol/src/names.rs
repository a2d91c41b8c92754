//! Names of entities and the paths to them.
//!
//! Source: apache/openwhisk `EntityPath.scala`, `FullyQualifiedEntityName.scala`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest name, in characters.
pub const MAX_NAME: usize = 256;

/// A namespace, package, action, trigger or rule name: 1 to 256 characters of `[\w@ .&-]`, the first a word character,
/// the last no space.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityName(Arc<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("name longer than allowed: {0} > {MAX_NAME}")]
    TooLong(usize),
    #[error("name contains illegal characters")]
    Illegal,
}

impl EntityName {
    /// # Errors
    /// [`NameError`] says which rule `text` breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length > MAX_NAME {
            return Err(NameError::TooLong(length));
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let inner = |c: char| word(c) || matches!(c, '@' | ' ' | '.' | '&' | '-');
        let legal = text.starts_with(word) && text.chars().all(inner) && !text.ends_with(' ');
        if legal { Ok(Self(text.into())) } else { Err(NameError::Illegal) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for EntityName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntityName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Where an entity lives: `ns` or `ns/package`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityPath {
    pub namespace: EntityName,
    pub package: Option<EntityName>,
}

impl EntityPath {
    pub fn namespace(namespace: EntityName) -> Self {
        Self { namespace, package: None }
    }

    pub fn package(namespace: EntityName, package: EntityName) -> Self {
        Self { namespace, package: Some(package) }
    }
}

impl fmt::Display for EntityPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.package {
            None => self.namespace.fmt(f),
            Some(package) => write!(f, "{}/{package}", self.namespace),
        }
    }
}

impl fmt::Debug for EntityPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `ns/name` or `ns/package/name`. Also the document id: all entity types of a namespace share one name space.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FullyQualifiedName {
    pub path: EntityPath,
    pub name: EntityName,
}

impl FullyQualifiedName {
    pub fn new(path: EntityPath, name: EntityName) -> Self {
        Self { path, name }
    }
}

impl fmt::Display for FullyQualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.path, self.name)
    }
}

impl fmt::Debug for FullyQualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
