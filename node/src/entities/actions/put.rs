//! What a `PUT` makes of the action that is stored, or of nothing, and how that is written.

use bytes::Bytes;
use protocol::{
    ErrorCode, FullyQualifiedName, RawJson, Revision, codec,
    command::{Condition, ListEntry, MAX_ENTRY, MetaKey, MetaOp, MetaTxn},
    entity::{
        Action, CodeRef, Collection, Entity, Exec, ExecBody, Parameters, SemVer,
        action::{ActionContent, ActionSettings, INLINE_CODE},
        exec::CodeBody,
    },
    limits::{EffectiveLimits, SystemLimits, check_instances},
    messages,
};

use crate::{
    clock,
    entities::{Entities, EntityError, code},
};

/// What remains of an entry for code beside its action: an entry has more than these two.
const ENTRY_FOR_DATA: usize = MAX_ENTRY - (16 << 10);

/// A checked body of `PUT`.
#[derive(Debug)]
pub struct PutAction {
    pub overwrite: bool,
    pub content: ActionContent,
    pub settings: ActionSettings,
}

impl Entities {
    /// Makes the action and its transaction; large code is on disk when this returns.
    pub(super) fn plan_put(
        &self,
        name: FullyQualifiedName,
        mut put: PutAction,
        known: Option<(Revision, Action)>,
        stored_code: Option<Bytes>,
        limits: &EffectiveLimits,
    ) -> Result<(Action, Option<Bytes>, MetaTxn), EntityError> {
        let stored = known.as_ref().map(|(_, action)| action);
        let kind = put.content.exec.as_ref().map(ExecBody::kind).or(stored.map(|action| action.exec.kind()));
        if let Some(kind) = kind.filter(|kind| self.kinds().is_deprecated(kind)) {
            return Err(EntityError::bad_request(messages::runtime_deprecated(kind)));
        }
        if let Some(ExecBody::Managed { kind, code, .. }) = &put.content.exec
            && self.kinds().needs_executable(kind)
            && is_source(code)
        {
            return Err(EntityError::bad_request(messages::executable_needed(kind)));
        }
        let sent = put.content.exec.take().map(|exec| self.stored_exec(exec)).transpose()?;
        let new_exec = sent.as_ref().map(|(exec, _)| exec.clone());
        let now_ms = clock::unix_ms();
        let mut action = merge(&name, put, new_exec, stored, &self.0.limits, now_ms)?;
        action.parameters = self.0.keyring.lock(action.parameters);
        check_instances(&action.limits, limits).map_err(EntityError::bad_request)?;

        let code = match sent {
            Some((_, code)) => code.map(Bytes::from),
            None => match (action.exec.code(), stored_code) {
                (Some(_), Some(inline)) => Some(inline),
                (Some(code), None) => Some(self.0.blobs.read(&code.sha256)?.into()),
                (None, _) => None,
            },
        };
        let entry = codec::encode(&Entity::Action(action.clone()));
        if entry.len() > ENTRY_FOR_DATA {
            return Err(EntityError::refused(
                ErrorCode::TooLarge,
                messages::larger_than_allowed("action", entry.len() as u64, protocol::ByteSize(ENTRY_FOR_DATA as u64)),
            ));
        }
        let entry = match &code {
            // Its parameters leave no room for the code beside them.
            Some(code) if inline(&action) && entry.len() + code.len() > ENTRY_FOR_DATA => {
                self.0.blobs.store(code)?;
                set_inline(&mut action, false);
                codec::encode(&Entity::Action(action.clone()))
            }
            _ => entry,
        };

        let key = MetaKey::Entity(name.clone());
        let mut conditions = vec![match known {
            None => Condition::Absent(key.clone()),
            Some((revision, _)) => Condition::At(key.clone(), revision),
        }];
        conditions.extend(name.package().map(|package| Condition::Exists(MetaKey::Entity(package))));
        let code_op = match &code {
            Some(code) if inline(&action) => MetaOp::Put { key: MetaKey::Code(name), value: code.to_vec(), list: None },
            _ => MetaOp::Delete(MetaKey::Code(name)),
        };
        let list = Some(ListEntry { collection: Collection::Actions, updated_ms: action.updated_ms });
        let ops = vec![MetaOp::Put { key, value: entry, list }, code_op];
        Ok((action, code, MetaTxn { conditions, ops }))
    }

    /// `exec` as it will be stored, with its code, which is on disk if it is large.
    fn stored_exec(&self, exec: ExecBody) -> Result<(Exec, Option<Vec<u8>>), EntityError> {
        let keep = |code: CodeBody| -> Result<(CodeRef, Vec<u8>), EntityError> {
            let inline = code.bytes.len() as u64 <= INLINE_CODE.bytes();
            let sha256 = if inline { code::sha256(&code.bytes) } else { self.0.blobs.store(&code.bytes)? };
            Ok((CodeRef { sha256, size: code.bytes.len() as u64, binary: code.binary, inline }, code.bytes))
        };
        Ok(match exec {
            ExecBody::Managed { kind, main, code } => {
                let (code, bytes) = keep(code)?;
                (Exec::Managed { kind, main, code }, Some(bytes))
            }
            ExecBody::Blackbox { image, main, code } => {
                let (code, bytes) = code.map(keep).transpose()?.unzip();
                (Exec::Blackbox { image, main, code }, bytes)
            }
            ExecBody::Sequence { .. } => return Err(EntityError::bad_request(messages::NO_SEQUENCES)),
        })
    }
}

/// What is refused whether or not the action is there.
pub(super) fn check_content(
    put: &PutAction,
    limits: &EffectiveLimits,
    system: &SystemLimits,
) -> Result<(), EntityError> {
    if let Some(body) = &put.settings.limits {
        limits.check_body(body).map_err(|text| EntityError::bad_request(format!("requirement failed: {text}")))?;
    }
    if let Some(exec) = &put.content.exec {
        let kind = exec.kind();
        let allowed = limits.allowed_kinds.as_deref().unwrap_or(&system.allowed_kinds);
        if !allowed.is_empty() && !allowed.iter().any(|allowed| allowed == kind) {
            return Err(EntityError::refused(ErrorCode::Forbidden, messages::kind_not_allowed(kind)));
        }
        if matches!(exec, ExecBody::Sequence { .. }) {
            return Err(EntityError::bad_request(messages::NO_SEQUENCES));
        }
    }
    let annotations = put.content.annotations.as_ref();
    if annotations.and_then(|annotations| annotations.get("conductor")).is_some_and(RawJson::is_truthy) {
        return Err(EntityError::bad_request(messages::NO_COMPOSITIONS));
    }
    Ok(())
}

/// The action that `put` makes of `stored`, or of nothing. Parameters replace; annotations merge.
fn merge(
    name: &FullyQualifiedName,
    put: PutAction,
    exec: Option<Exec>,
    stored: Option<&Action>,
    system: &SystemLimits,
    now_ms: u64,
) -> Result<Action, EntityError> {
    let PutAction { content, settings, .. } = put;
    let given = content.annotations.unwrap_or_default();
    let mut annotations = match stored {
        None => given,
        Some(stored) => {
            let mut kept = stored.annotations.clone();
            settings.del_annotations.iter().for_each(|key| kept.remove(key));
            kept.overlaid_by(&given)
        }
    };
    if stored.is_none() && annotations.get("provide-api-key").is_none() {
        annotations.set("provide-api-key", serde_json::Value::Bool(false));
    }
    let exec = match (exec, stored) {
        (Some(exec), _) => exec,
        (None, Some(stored)) => stored.exec.clone(),
        (None, None) => return Err(EntityError::bad_request(messages::EXEC_UNDEFINED)),
    };
    annotations.set("exec", RawJson::string(exec.kind()));
    let limits = stored.map_or_else(|| system.standard(), |stored| stored.limits);
    Ok(Action {
        path: name.path.clone(),
        name: name.name.clone(),
        version: match (settings.version, stored) {
            (Some(version), _) => version,
            (None, Some(stored)) => stored.version.next_patch(),
            (None, None) => SemVer::FIRST,
        },
        publish: settings.publish.unwrap_or(stored.is_some_and(|stored| stored.publish)),
        exec,
        parameters: match (content.parameters, stored) {
            (Some(parameters), _) => parameters,
            (None, Some(stored)) => stored.parameters.clone(),
            (None, None) => Parameters::default(),
        },
        annotations,
        limits: settings.limits.map_or(limits, |given| given.over(limits)),
        updated_ms: now_ms,
    })
}

/// Text that no interpreter is named in.
fn is_source(code: &CodeBody) -> bool {
    !code.binary && !code.bytes.starts_with(b"#!")
}

fn inline(action: &Action) -> bool {
    action.exec.code().is_some_and(|code| code.inline)
}

fn set_inline(action: &mut Action, inline: bool) {
    match &mut action.exec {
        Exec::Managed { code, .. } | Exec::Blackbox { code: Some(code), .. } => code.inline = inline,
        Exec::Blackbox { code: None, .. } | Exec::Sequence { .. } => {}
    }
}

#[cfg(test)]
mod tests;
