//! How an action is executed: the member `exec` of its body, and as answers show it.
//!
//! Source: apache/openwhisk `Exec.scala`, `ExecManifest.scala`.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::action::Exec;
use crate::{error::Malformed, json::Members, messages, names::FullyQualifiedName};

/// What the reader of `exec` must know of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindRules {
    /// Resolved: never `family:default`.
    pub kind: String,
    /// The manifest keeps its code as an attachment; shows in one text only.
    pub attached: bool,
    pub require_main: bool,
}

/// The kinds that can be used.
pub trait Kinds {
    /// The rules of `kind`, which may be `family:default`; `None` if there is no such kind.
    fn rules(&self, kind: &str) -> Option<KindRules>;
    /// All of them, resolved, for the text that refuses another.
    fn names(&self) -> Vec<&str>;
}

/// The member `exec` of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecBody {
    Managed {
        /// Resolved.
        kind: String,
        main: Option<String>,
        code: CodeBody,
    },
    Blackbox {
        /// As parsed and put together again, without a digest.
        image: String,
        main: Option<String>,
        code: Option<CodeBody>,
    },
    Sequence {
        components: Vec<FullyQualifiedName>,
    },
}

/// Code that came with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeBody {
    /// The text's bytes, or what its base64 stands for.
    pub bytes: Vec<u8>,
    pub binary: bool,
    /// Bytes of the text as sent: what counts against the limit.
    pub sent: u64,
}

impl CodeBody {
    /// Finds out if `text` is base64, and decodes it if so. The client's own opinion does not count.
    pub fn new(text: String) -> Self {
        let sent = text.len() as u64;
        match decode_base64(&text) {
            Some(bytes) => Self { bytes, binary: true, sent },
            None => Self { bytes: text.into_bytes(), binary: false, sent },
        }
    }
}

/// Upstream asks a regular expression: non-empty groups of four of the alphabet, padded. So any word of four letters
/// is "binary".
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    /// Java's decoder ignores bits that padding leaves over, and so must we: upstream's expression lets them pass.
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    let text = text.trim();
    if text.is_empty() || !text.len().is_multiple_of(4) { None } else { LENIENT.decode(text).ok() }
}

impl ExecBody {
    /// # Errors
    /// The texts of reference `rest-api.md` 7.2.
    pub fn from_json(value: &RawValue, kinds: &dyn Kinds) -> Result<Self, Malformed> {
        let members = Members::parse(value.get()).map_err(|_| Malformed::new(messages::KIND_NOT_A_STRING))?;
        let kind = members.get("kind").and_then(text).ok_or_else(|| Malformed::new(messages::KIND_NOT_A_STRING))?;
        match kind.trim().to_lowercase().as_str() {
            "sequence" => components(&members).map(|components| Self::Sequence { components }),
            "blackbox" => Self::blackbox(&members),
            kind => Self::managed(kind, &members, kinds),
        }
    }

    fn managed(kind: &str, members: &Members<'_>, kinds: &dyn Kinds) -> Result<Self, Malformed> {
        let Some(rules) = kinds.rules(kind) else {
            return Err(Malformed(messages::runtime_not_supported(kind, kinds.names())));
        };
        // The texts name the kind as it was sent.
        let missing = || Malformed(messages::code_missing(kind, rules.attached));
        let code = if rules.attached {
            // `jar` is what java actions once sent.
            members.get("code").or_else(|| members.get("jar"))
        } else {
            members.get("code").filter(|raw| raw.get().starts_with('"'))
        };
        let code = code.ok_or_else(missing)?;
        let main = main(members, kind)?;
        if rules.require_main && main.is_none() {
            return Err(Malformed(messages::main_missing(kind)));
        }
        let code = text(code).ok_or_else(|| Malformed(messages::code_not_attachment(code.get())))?;
        Ok(Self::Managed { kind: rules.kind, main, code: CodeBody::new(code) })
    }

    fn blackbox(members: &Members<'_>) -> Result<Self, Malformed> {
        let image = members.get("image").and_then(text).ok_or_else(|| Malformed::new(messages::IMAGE_NOT_A_STRING))?;
        let image = parse_image(&image).ok_or_else(|| Malformed::new(messages::IMAGE_MALFORMED))?;
        let code = match members.optional("code") {
            None => None,
            Some(raw) => Some(text(raw).ok_or_else(|| Malformed(messages::code_not_attachment(raw.get())))?),
        };
        let code = code.filter(|text| !text.trim().is_empty()).map(CodeBody::new);
        Ok(Self::Blackbox { image, main: main(members, "blackbox")?, code })
    }

    /// What counts against the limit: code and names as sent.
    pub fn size(&self) -> u64 {
        let main = |main: &Option<String>| main.as_ref().map_or(0, String::len) as u64;
        match self {
            Self::Managed { main: name, code, .. } => code.sent + main(name),
            Self::Blackbox { image, main: name, code } => {
                code.as_ref().map_or(0, |code| code.sent) + main(name) + image.len() as u64
            }
            Self::Sequence { components } => components.iter().map(|name| name.to_string().len() as u64).sum(),
        }
    }

    /// The kind as stored.
    pub fn kind(&self) -> &str {
        match self {
            Self::Managed { kind, .. } => kind,
            Self::Blackbox { .. } => "blackbox",
            Self::Sequence { .. } => "sequence",
        }
    }
}

fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn main(members: &Members<'_>, kind: &str) -> Result<Option<String>, Malformed> {
    match members.optional("main") {
        None => Ok(None),
        Some(raw) => text(raw).map(Some).ok_or_else(|| Malformed(messages::main_not_a_string(kind))),
    }
}

fn components(members: &Members<'_>) -> Result<Vec<FullyQualifiedName>, Malformed> {
    let components =
        members.get("components").ok_or_else(|| Malformed::new("'components' must be defined for sequence kind"))?;
    let components: Vec<&RawValue> =
        serde_json::from_str(components.get()).map_err(|_| Malformed::new("'components' must be an array"))?;
    components.into_iter().map(FullyQualifiedName::from_json).collect()
}

/// Reads `[registry/][prefix/…/]name[:tag][@digest]`, as Docker names images; the digest is dropped.
///
/// Source: apache/openwhisk `ExecManifest.scala` (`ImageName.fromString`); distribution/reference `reference.go`.
fn parse_image(text: &str) -> Option<String> {
    let text = match text.split_once('@') {
        None => text,
        Some((image, digest)) => {
            let (algorithm, hex) = digest.split_once(':')?;
            let component = |part: &str| {
                part.starts_with(|c: char| c.is_ascii_alphabetic())
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            };
            let legal = algorithm.split(['+', '.', '-', '_']).all(component)
                && hex.len() >= 32
                && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            legal.then_some(image)?
        }
    };
    let mut parts: Vec<&str> = text.split('/').collect();
    let last = parts.pop()?;
    let (name, tag) = last.split_once(':').map_or((last, None), |(name, tag)| (name, Some(tag)));
    // A first part with a dot or a port is a registry; without them it is a folder like the others.
    if parts.first().is_some_and(|part| part.contains(['.', ':']) && is_registry(part)) {
        parts.remove(0);
    }
    let tag = tag.is_none_or(|tag| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let legal = |byte: u8| word(byte) || matches!(byte, b'.' | b'-');
        tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(legal)
    });
    (parts.into_iter().all(is_path_component) && is_path_component(name) && tag).then(|| text.to_owned())
}

fn is_registry(part: &str) -> bool {
    let (host, port) = part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let port = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    port && host.split('.').all(|component| !component.is_empty() && component.bytes().all(legal))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(is_word).filter(|between| !between.is_empty());
    let separator = |between: &str| matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-');
    part.starts_with(is_word) && part.ends_with(is_word) && separators.into_iter().all(separator)
}

/// `exec` as answers show it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ExecDocument<'a> {
    Managed {
        kind: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Cow<'a, str>>,
        binary: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        main: Option<&'a str>,
    },
    Blackbox {
        kind: &'a str,
        image: &'a str,
        binary: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        main: Option<&'a str>,
    },
    Sequence {
        kind: &'a str,
        components: Vec<String>,
    },
}

/// The stored bytes of a text are no UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored code is neither binary nor UTF-8")]
pub struct CorruptCode;

impl<'a> ExecDocument<'a> {
    /// `code`: the stored bytes; `None` leaves the member out.
    ///
    /// # Errors
    /// [`CorruptCode`]
    pub fn new(exec: &'a Exec, code: Option<&'a [u8]>) -> Result<Self, CorruptCode> {
        let binary = exec.code().is_some_and(|code| code.binary);
        let code = match code {
            None => None,
            Some(bytes) if binary => Some(Cow::Owned(STANDARD.encode(bytes))),
            Some(bytes) => Some(Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| CorruptCode)?)),
        };
        let (kind, main) = (exec.kind(), exec.main());
        Ok(match exec {
            Exec::Managed { .. } => Self::Managed { kind, code, binary, main },
            Exec::Blackbox { image, .. } => Self::Blackbox { kind, image, binary, code, main },
            Exec::Sequence { components } => {
                Self::Sequence { kind, components: components.iter().map(|name| format!("/{name}")).collect() }
            }
        })
    }
}

#[cfg(test)]
mod tests;
