//! Packages and bindings: as stored, as bodies bring them, as answers show them.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    action::{Action, boolean},
    parameters::Parameters,
    version::SemVer,
};
use crate::{
    error::Malformed,
    json::{Members, RawJson},
    names::{EntityName, EntityPath, FullyQualifiedName},
};

/// A package, or a binding to one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Package {
    pub namespace: EntityName,
    pub name: EntityName,
    pub version: SemVer,
    pub publish: bool,
    pub binding: Option<Binding>,
    pub parameters: Parameters,
    pub annotations: Parameters,
    pub updated_ms: u64,
}

impl Package {
    pub fn fqn(&self) -> FullyQualifiedName {
        FullyQualifiedName::new(EntityPath::namespace(self.namespace.clone()), self.name.clone())
    }

    /// Where its actions live.
    pub fn path(&self) -> EntityPath {
        EntityPath::package(self.namespace.clone(), self.name.clone())
    }
}

/// The package that a binding stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub namespace: EntityName,
    pub name: EntityName,
}

impl Binding {
    pub fn fqn(&self) -> FullyQualifiedName {
        FullyQualifiedName::new(EntityPath::namespace(self.namespace.clone()), self.name.clone())
    }

    /// The annotation that the server gives to bindings.
    pub fn annotation(&self) -> RawJson {
        RawJson::object([
            ("namespace", &RawJson::string(self.namespace.as_str())),
            ("name", &RawJson::string(self.name.as_str())),
        ])
    }

    /// Reads the member `binding`; `{}` is no binding.
    fn from_json(raw: &RawValue) -> Result<Option<Self>, Malformed> {
        let members = Members::parse(raw.get()).map_err(|_| Malformed::new("'binding' must be an object"))?;
        if members.is_empty() {
            return Ok(None);
        }
        let part = |key: &str| -> Result<EntityName, Malformed> {
            let text: Option<String> = members.get(key).and_then(|raw| serde_json::from_str(raw.get()).ok());
            let text = text.ok_or_else(|| Malformed(format!("'binding' must have the string '{key}'")))?;
            EntityName::new(&text).map_err(|error| Malformed(format!("'{key}' of 'binding': {error}")))
        };
        Ok(Some(Self { namespace: part("namespace")?, name: part("name")? }))
    }
}

/// The body of `PUT …/packages/{name}`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PackageBody {
    /// `{}` and absence are the same. The namespace may be `_`.
    pub binding: Option<Binding>,
    pub parameters: Option<Parameters>,
    pub annotations: Option<Parameters>,
    pub version: Option<SemVer>,
    pub publish: Option<bool>,
}

impl PackageBody {
    /// The members that are read and measured first.
    ///
    /// # Errors
    /// The first member that is not what it must be.
    pub fn content(body: &Members<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            parameters: body.optional("parameters").map(Parameters::from_json).transpose()?,
            annotations: body.optional("annotations").map(Parameters::from_json).transpose()?,
            ..Self::default()
        })
    }

    /// Adds the rest of the body.
    ///
    /// # Errors
    /// The first member that is not what it must be.
    pub fn with_settings(self, body: &Members<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            binding: body.get("binding").map(Binding::from_json).transpose()?.flatten(),
            version: body.optional("version").map(SemVer::from_json).transpose()?,
            publish: body.optional("publish").map(boolean).transpose()?,
            ..self
        })
    }
}

/// A package as answers show it.
#[derive(Debug, Serialize)]
pub struct PackageDocument<'a> {
    namespace: &'a EntityName,
    name: &'a EntityName,
    #[serde(serialize_with = "binding_or_empty")]
    binding: Option<&'a Binding>,
    parameters: &'a Parameters,
    version: SemVer,
    publish: bool,
    annotations: &'a Parameters,
    updated: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    contents: Option<PackageContents<'a>>,
}

/// What `GET` adds: an action is a feed if it has an annotation of that name, whatever its value, and is then not
/// listed with the actions.
#[derive(Debug, Serialize)]
struct PackageContents<'a> {
    actions: Vec<ContainedAction<'a>>,
    feeds: Vec<ContainedAction<'a>>,
}

#[derive(Debug, Serialize)]
struct ContainedAction<'a> {
    name: &'a EntityName,
    version: SemVer,
    annotations: &'a Parameters,
}

impl<'a> From<&'a Package> for PackageDocument<'a> {
    /// As `PUT` and `DELETE` answer it.
    fn from(package: &'a Package) -> Self {
        Self {
            namespace: &package.namespace,
            name: &package.name,
            binding: package.binding.as_ref(),
            parameters: &package.parameters,
            version: package.version,
            publish: package.publish,
            annotations: &package.annotations,
            updated: package.updated_ms,
            contents: None,
        }
    }
}

impl<'a> PackageDocument<'a> {
    /// As `GET` answers it: `parameters` are the provider's overlaid by the binding's, `actions` the provider's.
    pub fn with_contents(self, parameters: &'a Parameters, actions: &'a [Action]) -> Self {
        let (feeds, actions): (Vec<&Action>, Vec<&Action>) =
            actions.iter().partition(|action| action.annotations.get("feed").is_some());
        let contained = |actions: Vec<&'a Action>| {
            let contained = |action: &'a Action| ContainedAction {
                name: &action.name,
                version: action.version,
                annotations: &action.annotations,
            };
            actions.into_iter().map(contained).collect()
        };
        Self {
            parameters,
            contents: Some(PackageContents { actions: contained(actions), feeds: contained(feeds) }),
            ..self
        }
    }
}

/// A package as lists show it.
#[derive(Debug, Serialize)]
pub struct PackageSummary<'a> {
    namespace: &'a EntityName,
    name: &'a EntityName,
    version: SemVer,
    publish: bool,
    annotations: &'a Parameters,
    updated: u64,
    #[serde(serialize_with = "binding_or_false")]
    binding: Option<&'a Binding>,
}

impl<'a> From<&'a Package> for PackageSummary<'a> {
    fn from(package: &'a Package) -> Self {
        Self {
            namespace: &package.namespace,
            name: &package.name,
            version: package.version,
            publish: package.publish,
            annotations: &package.annotations,
            updated: package.updated_ms,
            binding: package.binding.as_ref(),
        }
    }
}

fn binding_or_empty<S: Serializer>(binding: &Option<&Binding>, serializer: S) -> Result<S::Ok, S::Error> {
    match binding {
        Some(binding) => binding.serialize(serializer),
        None => serde::ser::SerializeMap::end(serializer.serialize_map(Some(0))?),
    }
}

fn binding_or_false<S: Serializer>(binding: &Option<&Binding>, serializer: S) -> Result<S::Ok, S::Error> {
    match binding {
        Some(binding) => binding.serialize(serializer),
        None => serializer.serialize_bool(false),
    }
}
