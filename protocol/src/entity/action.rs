//! Actions: as stored, as bodies bring them, as answers show them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    exec::{CorruptCode, ExecBody, ExecDocument, Kinds},
    parameters::Parameters,
    version::SemVer,
};
use crate::{
    error::Malformed,
    json::Members,
    limits::{LimitsBody, LimitsDocument},
    names::{EntityName, EntityPath, FullyQualifiedName},
    size::ByteSize,
};

/// An action as stored. The code itself is kept apart (see [`CodeRef`]), so that lists and look-ups never load it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// `ns` or `ns/package`.
    pub path: EntityPath,
    pub name: EntityName,
    pub version: SemVer,
    pub publish: bool,
    pub exec: Exec,
    pub parameters: Parameters,
    pub annotations: Parameters,
    pub limits: ActionLimits,
    /// Milliseconds since the epoch of the last write.
    pub updated_ms: u64,
}

impl Action {
    pub fn fqn(&self) -> FullyQualifiedName {
        FullyQualifiedName::new(self.path.clone(), self.name.clone())
    }
}

/// How an action is executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Exec {
    /// A kind of the runtimes manifest, resolved (`nodejs:20`, never `nodejs:default`).
    Managed { kind: String, main: Option<String>, code: CodeRef },
    /// An image of the user's.
    Blackbox { image: String, main: Option<String>, code: Option<CodeRef> },
    /// Actions called one after another.
    Sequence { components: Vec<FullyQualifiedName> },
}

impl Exec {
    /// The kind as the API shows it.
    pub fn kind(&self) -> &str {
        match self {
            Exec::Managed { kind, .. } => kind,
            Exec::Blackbox { .. } => "blackbox",
            Exec::Sequence { .. } => "sequence",
        }
    }

    pub fn code(&self) -> Option<&CodeRef> {
        match self {
            Exec::Managed { code, .. } => Some(code),
            Exec::Blackbox { code, .. } => code.as_ref(),
            Exec::Sequence { .. } => None,
        }
    }

    pub fn main(&self) -> Option<&str> {
        match self {
            Exec::Managed { main, .. } | Exec::Blackbox { main, .. } => main.as_deref(),
            Exec::Sequence { .. } => None,
        }
    }
}

/// Names the code of an action: the bytes of the text, or the decoded bytes of base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRef {
    pub sha256: [u8; 32],
    /// Bytes as stored.
    pub size: u64,
    /// True when the client sent base64 (zip, jar, executable): it is stored decoded and shown encoded.
    pub binary: bool,
    /// True: up to 64 KiB, stored beside the entity in `meta`. False: a blob file named by `sha256`.
    pub inline: bool,
}

/// Largest code that is stored beside its entity.
pub const INLINE_CODE: ByteSize = ByteSize::kib(64);

/// Limits of an action, checked against the namespace's bounds when written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionLimits {
    pub timeout_ms: u32,
    pub memory_mb: u32,
    pub logs_mb: u32,
    pub concurrency: u32,
    pub instances: Option<u32>,
}

impl Default for ActionLimits {
    fn default() -> Self {
        Self { timeout_ms: 60_000, memory_mb: 256, logs_mb: 10, concurrency: 1, instances: None }
    }
}

/// The body of `PUT …/actions/{name}`: its heavy members, which are read and measured first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActionContent {
    pub exec: Option<ExecBody>,
    pub parameters: Option<Parameters>,
    pub annotations: Option<Parameters>,
}

impl ActionContent {
    /// # Errors
    /// The first member that is not what it must be.
    pub fn from_json(body: &Members<'_>, kinds: &dyn Kinds) -> Result<Self, Malformed> {
        Ok(Self {
            exec: body.optional("exec").map(|exec| ExecBody::from_json(exec, kinds)).transpose()?,
            parameters: body.optional("parameters").map(Parameters::from_json).transpose()?,
            annotations: body.optional("annotations").map(Parameters::from_json).transpose()?,
        })
    }
}

/// The rest of the body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActionSettings {
    /// Keys of annotations to remove before merging; ignored on create.
    pub del_annotations: Vec<String>,
    pub limits: Option<LimitsBody>,
    pub version: Option<SemVer>,
    pub publish: Option<bool>,
}

impl ActionSettings {
    /// # Errors
    /// The first member that is not what it must be.
    pub fn from_json(body: &Members<'_>) -> Result<Self, Malformed> {
        let keys = body.optional("delAnnotations").map(|raw| {
            serde_json::from_str::<Vec<String>>(raw.get())
                .map_err(|_| Malformed::new("'delAnnotations' must be an array of strings"))
        });
        Ok(Self {
            del_annotations: keys.transpose()?.unwrap_or_default(),
            limits: body.optional("limits").map(LimitsBody::from_json).transpose()?,
            version: body.optional("version").map(SemVer::from_json).transpose()?,
            publish: body.optional("publish").map(boolean).transpose()?,
        })
    }
}

/// Reads `publish`.
pub(super) fn boolean(raw: &RawValue) -> Result<bool, Malformed> {
    serde_json::from_str(raw.get()).map_err(|_| Malformed::new("'publish' must be a boolean"))
}

/// An action as `GET`, `PUT` and `DELETE` answer it.
#[derive(Debug, Serialize)]
pub struct ActionDocument<'a> {
    #[serde(serialize_with = "shown")]
    namespace: &'a EntityPath,
    name: &'a EntityName,
    version: SemVer,
    publish: bool,
    exec: ExecDocument<'a>,
    parameters: &'a Parameters,
    limits: LimitsDocument,
    annotations: &'a Parameters,
    updated: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<String>,
}

impl<'a> ActionDocument<'a> {
    /// `code`: the stored bytes; `None` leaves `exec.code` out.
    ///
    /// # Errors
    /// [`CorruptCode`] if a text is none.
    pub fn new(action: &'a Action, code: Option<&'a [u8]>) -> Result<Self, CorruptCode> {
        Ok(Self {
            namespace: &action.path,
            name: &action.name,
            version: action.version,
            publish: action.publish,
            exec: ExecDocument::new(&action.exec, code)?,
            parameters: &action.parameters,
            limits: (&action.limits).into(),
            annotations: &action.annotations,
            updated: action.updated_ms,
            binding: None,
        })
    }

    /// With the parameters that an invocation would start from.
    pub fn with_parameters(self, parameters: &'a Parameters) -> Self {
        Self { parameters, ..self }
    }

    /// Names the binding it was reached through.
    pub fn through(self, binding: Option<&FullyQualifiedName>) -> Self {
        Self { binding: binding.map(ToString::to_string), ..self }
    }
}

/// An action as lists show it.
#[derive(Debug, Serialize)]
pub struct ActionSummary<'a> {
    #[serde(serialize_with = "shown")]
    namespace: &'a EntityPath,
    name: &'a EntityName,
    version: SemVer,
    publish: bool,
    annotations: &'a Parameters,
    limits: LimitsDocument,
    exec: ExecSummary,
    updated: u64,
}

#[derive(Debug, Serialize)]
struct ExecSummary {
    binary: bool,
}

impl<'a> From<&'a Action> for ActionSummary<'a> {
    fn from(action: &'a Action) -> Self {
        Self {
            namespace: &action.path,
            name: &action.name,
            version: action.version,
            publish: action.publish,
            annotations: &action.annotations,
            limits: (&action.limits).into(),
            exec: ExecSummary { binary: action.exec.code().is_some_and(|code| code.binary) },
            updated: action.updated_ms,
        }
    }
}

pub(super) fn shown<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
