//! Names of entities and the paths to them.
//!
//! Source: apache/openwhisk `EntityPath.scala`, `FullyQualifiedEntityName.scala`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{error::Malformed, json::Members, messages};

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

    /// `_` stands for the caller's namespace.
    pub fn is_placeholder(&self) -> bool {
        &*self.0 == "_"
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

    /// The package that holds it, if one does.
    pub fn package(&self) -> Option<FullyQualifiedName> {
        let package = self.path.package.clone()?;
        Some(Self::new(EntityPath::namespace(self.path.namespace.clone()), package))
    }

    /// Reads `/ns/name` or `/ns/package/name`, the leading slash being optional and empty segments dropped.
    ///
    /// # Errors
    /// For another number of segments, or illegal characters in one.
    ///
    /// Source: apache/openwhisk `FullyQualifiedEntityName.scala`, `EntityPath.scala`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let segments: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
        let name = |segment: &str| EntityName::new(segment).map_err(|_| Malformed(messages::path_invalid(text)));
        match segments[..] {
            [namespace, entity] => Ok(Self::new(EntityPath::namespace(name(namespace)?), name(entity)?)),
            [namespace, package, entity] => {
                Ok(Self::new(EntityPath::package(name(namespace)?, name(package)?), name(entity)?))
            }
            [] | [_] => Err(Malformed::new(messages::FQN_TOO_SHORT)),
            _ => Err(Malformed(messages::path_invalid(text))),
        }
    }

    /// Reads a reference in a body: a string as [`FullyQualifiedName::parse`] takes it, or `{"path":…,"name":…}`.
    ///
    /// # Errors
    /// As `parse`, and for other shapes.
    pub fn from_json(value: &RawValue) -> Result<Self, Malformed> {
        if let Ok(text) = serde_json::from_str::<String>(value.get()) {
            return Self::parse(&text);
        }
        let malformed = || Malformed::new(messages::FQN_MALFORMED);
        let members = Members::parse(value.get()).map_err(|_| malformed())?;
        let member = |key| members.get(key).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let (path, name) = member("path").zip(member("name")).ok_or_else(malformed)?;
        let name = EntityName::new(&name).map_err(|_| Malformed(messages::path_invalid(&name)))?;
        Self::parse(&format!("{path}/{name}"))
    }

    /// With `namespace` where the placeholder `_` stands.
    pub fn resolved_in(mut self, namespace: &EntityName) -> Self {
        if self.path.namespace.is_placeholder() {
            self.path.namespace = namespace.clone();
        }
        self
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn which_names_are_legal() {
        for name in ["a", "_", "_under", "name with spaces", "foo@bar", "a&b", "foo.bar", "foo-bar", "9", "a."] {
            assert!(EntityName::new(name).is_ok(), "{name:?}");
        }
        for name in
            ["", " ", "a ", "hi+there", "$hola", "dora?", "|dora|dora?", "@a", ".a", "-a", " a", "ä", "a/b", "a\n"]
        {
            assert_eq!(EntityName::new(name), Err(NameError::Illegal), "{name:?}");
        }
        assert!(EntityName::new(&"a".repeat(256)).is_ok());
        assert_eq!(EntityName::new(&"a".repeat(257)), Err(NameError::TooLong(257)));
    }

    fn read(json: &str) -> Result<String, String> {
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        FullyQualifiedName::from_json(raw).map(|name| name.to_string()).map_err(|error| error.0)
    }

    #[test]
    fn references_come_as_strings_or_objects() {
        for (json, name) in [
            (r#""/ns/name""#, "ns/name"),
            (r#""ns/name""#, "ns/name"),
            (r#""/ns//pkg/name/""#, "ns/pkg/name"),
            (r#"{"path":"ns/pkg","name":"n","version":"1.0.0"}"#, "ns/pkg/n"),
            (r#"{"path":"/ns","name":"n"}"#, "ns/n"),
        ] {
            assert_eq!(read(json).as_deref(), Ok(name), "{json}");
        }
        for (json, text) in [
            (r#""name""#, messages::FQN_TOO_SHORT.to_owned()),
            (r#""""#, messages::FQN_TOO_SHORT.to_owned()),
            (r#""ns/$x""#, messages::path_invalid("ns/$x")),
            (r#""a/b/c/d""#, messages::path_invalid("a/b/c/d")),
            ("3", messages::FQN_MALFORMED.to_owned()),
            ("null", messages::FQN_MALFORMED.to_owned()),
            (r#"{"path":"ns"}"#, messages::FQN_MALFORMED.to_owned()),
        ] {
            assert_eq!(read(json), Err(text), "{json}");
        }
    }

    #[test]
    fn the_placeholder_is_replaced_only_as_namespace() {
        let caller = EntityName::new("guest").unwrap();
        let resolved = |text| FullyQualifiedName::parse(text).unwrap().resolved_in(&caller).to_string();
        assert_eq!(resolved("/_/a"), "guest/a");
        assert_eq!(resolved("/_/_/a"), "guest/_/a");
        assert_eq!(resolved("/other/a"), "other/a");
    }

    proptest! {
        #[test]
        fn shown_names_parse_back(parts in prop::collection::vec("[A-Za-z0-9_][A-Za-z0-9_@ .&-]{0,20}[A-Za-z0-9_]", 2..=3)) {
            let name = FullyQualifiedName::parse(&parts.join("/")).unwrap();
            prop_assert_eq!(FullyQualifiedName::parse(&format!("/{name}")).unwrap(), name);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = EntityName::new(&text);
            let _ = FullyQualifiedName::parse(&text);
        }
    }
}
