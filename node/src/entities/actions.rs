//! The collection of actions: create, update, get, delete, list.
//!
//! Every write is optimistic: read what is stored, decide, and propose the outcome on the condition that it is still
//! stored. Who loses the race is told so.

use std::ops::ControlFlow;

use bytes::Bytes;
use protocol::{
    EntityName, ErrorCode, FullyQualifiedName, RawJson, Revision, codec,
    command::{Condition, ListEntry, MAX_ENTRY, MetaKey, MetaOp, MetaTxn},
    entity::{
        Action, CodeRef, Collection, Entity, Exec, ExecBody, Parameters, SemVer,
        action::{ActionContent, ActionSettings, INLINE_CODE},
        exec::CodeBody,
    },
    limits::{EffectiveLimits, SystemLimits, check_instances},
    messages,
};

use super::{
    Entities, EntityError, Source, code,
    reach::{Reached, reach},
    resolve::entity_with_code,
};
use crate::clock;

/// What remains of an entry for code beside its action: an entry has more than these two.
const ENTRY_FOR_DATA: usize = MAX_ENTRY - (16 << 10);

/// An action with its code as stored, if it has any.
#[derive(Debug, Clone)]
pub struct ActionWithCode {
    pub action: Action,
    pub code: Option<Bytes>,
    /// What it inherits merged in; `None`: nothing is to be shown but its own.
    pub merged: Option<Parameters>,
    pub binding: Option<FullyQualifiedName>,
}

/// A checked body of `PUT`.
#[derive(Debug)]
pub struct PutAction {
    pub overwrite: bool,
    pub content: ActionContent,
    pub settings: ActionSettings,
}

impl Entities {
    /// May actions be written where `name` lies? Asked before the body is looked at.
    ///
    /// # Errors
    /// Not the caller's (403); its package is missing (404), a binding (400), no package (409).
    pub async fn check_home(&self, caller: &EntityName, name: &FullyQualifiedName) -> Result<(), EntityError> {
        if name.path.namespace != *caller {
            return Err(EntityError::forbidden(name));
        }
        let Some(package) = name.package() else { return Ok(()) };
        self.reading(move |entities| match entities.0.meta.entity(&package)? {
            Some((_, Entity::Package(package))) if package.binding.is_some() => {
                Err(EntityError::bad_request(messages::NOT_ON_BINDING))
            }
            Some((_, Entity::Package(_))) => Ok(()),
            Some(_) => Err(EntityError::conflict(messages::WRONG_COLLECTION)),
            None => Err(EntityError::missing()),
        })
        .await
    }

    /// Creates or updates `name`, whose home [`Entities::check_home`] has passed.
    ///
    /// # Errors
    /// What `PUT` refuses after its body was decoded.
    pub async fn put_action(&self, name: FullyQualifiedName, put: PutAction) -> Result<ActionWithCode, EntityError> {
        let limits = self.limits(&name.path.namespace).await?;
        let (action, code, txn) = self
            .reading(move |entities| {
                check_content(&put, &limits, &entities.0.limits)?;
                let stored = entity_with_code(&entities.0.meta, &name)?;
                let (known, stored_code) = match stored {
                    None => (None, None),
                    Some((revision, Entity::Action(action), code)) => (Some((revision, action)), code),
                    Some(_) => return Err(EntityError::conflict(messages::WRONG_COLLECTION)),
                };
                if known.is_some() && !put.overwrite {
                    return Err(EntityError::conflict(messages::ALREADY_EXISTS));
                }
                entities.plan_put(name, put, known, stored_code, &limits)
            })
            .await?;
        match self.write(txn).await? {
            Ok(_) => Ok(ActionWithCode { action, code, merged: None, binding: None }),
            // The first condition is on the action itself, the other on its package.
            Err(0) => Err(EntityError::conflict(messages::CONCURRENT_MODIFICATION)),
            Err(_) => Err(EntityError::missing()),
        }
    }

    /// Makes the action and its transaction; large code is on disk when this returns.
    fn plan_put(
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
        let sent = put.content.exec.take().map(|exec| self.stored_exec(exec)).transpose()?;
        let new_exec = sent.as_ref().map(|(exec, _)| exec.clone());
        let now_ms = clock::unix_ms();
        let mut action = merge(&name, put, new_exec, stored, &self.0.limits, now_ms)?;
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

    /// Deletes `name`, whose home [`Entities::check_home`] has passed, and answers what it was.
    ///
    /// # Errors
    /// Not there (404), no action or changed meanwhile (409).
    pub async fn delete_action(&self, name: FullyQualifiedName) -> Result<ActionWithCode, EntityError> {
        let read = name.clone();
        let (revision, action, code) = self
            .reading(move |entities| match entity_with_code(&entities.0.meta, &read)? {
                Some((revision, Entity::Action(action), Some(code))) => Ok((revision, action, Some(code))),
                Some((revision, Entity::Action(action), None)) => {
                    // What cannot be shown must be deletable all the same.
                    let code = action.exec.code().and_then(|code| match entities.0.blobs.read(&code.sha256) {
                        Ok(bytes) => Some(Bytes::from(bytes)),
                        Err(error) => {
                            tracing::warn!(action = %read, %error, "the code of a deleted action cannot be shown");
                            None
                        }
                    });
                    Ok((revision, action, code))
                }
                Some(_) => Err(EntityError::conflict(messages::WRONG_COLLECTION)),
                None => Err(EntityError::missing()),
            })
            .await?;
        let key = MetaKey::Entity(name.clone());
        let txn = MetaTxn {
            conditions: vec![Condition::At(key.clone(), revision)],
            ops: vec![MetaOp::Delete(key), MetaOp::Delete(MetaKey::Code(name))],
        };
        match self.write(txn).await? {
            Ok(_) => Ok(ActionWithCode { action, code, merged: None, binding: None }),
            Err(_) => Err(EntityError::conflict(messages::CONCURRENT_MODIFICATION)),
        }
    }

    /// The actions of a namespace, those in packages included, or of one package; newest first.
    ///
    /// # Errors
    /// As for the package, if one is asked for.
    pub async fn list_actions(
        &self,
        caller: &EntityName,
        home: ActionsHome,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<Action>, EntityError> {
        let caller = caller.clone();
        self.reading(move |entities| {
            let (namespace, package) = home.reach(&entities.0.meta, &caller)?;
            entities.actions_of(&namespace, package.as_ref(), skip, limit)
        })
        .await
    }

    /// How many [`Entities::list_actions`] would list.
    ///
    /// # Errors
    /// The same.
    pub async fn count_actions(&self, caller: &EntityName, home: ActionsHome) -> Result<u64, EntityError> {
        let caller = caller.clone();
        self.reading(move |entities| {
            let (namespace, package) = home.reach(&entities.0.meta, &caller)?;
            Ok(entities.0.meta.count(&namespace, Collection::Actions, package.as_ref())?)
        })
        .await
    }

    pub(super) fn actions_of(
        &self,
        namespace: &EntityName,
        package: Option<&EntityName>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<Action>, EntityError> {
        let mut found = Vec::new();
        let mut failed = Ok(());
        let mut seen = 0;
        if limit == 0 {
            return Ok(found);
        }
        self.0.meta.visit_list(namespace, Collection::Actions, package, &mut |name, stored| {
            seen += 1;
            if seen <= skip {
                return ControlFlow::Continue(());
            }
            match super::decode(&name, &stored.value) {
                Ok(Entity::Action(action)) => found.push(action),
                Ok(_) => failed = Err(EntityError::Corrupted(format!("{name} is listed as an action"))),
                Err(error) => failed = Err(error),
            }
            if found.len() == limit || failed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map(|()| found)
    }
}

/// Whose actions are listed.
#[derive(Debug, Clone)]
pub enum ActionsHome {
    /// The caller's namespace.
    Namespace(EntityName),
    /// A package or binding.
    Package(FullyQualifiedName),
}

impl ActionsHome {
    fn reach(
        &self,
        source: &impl Source,
        caller: &EntityName,
    ) -> Result<(EntityName, Option<EntityName>), EntityError> {
        match self {
            Self::Namespace(namespace) if namespace == caller => Ok((namespace.clone(), None)),
            Self::Namespace(namespace) => Err(EntityError::forbidden(namespace)),
            Self::Package(name) => {
                let reached: Reached = reach(source, caller, name).map_err(|error| error.for_action(name))?;
                let home = reached.home();
                Ok((home.namespace.clone(), Some(home.name.clone())))
            }
        }
    }
}

/// What is refused whether or not the action is there.
fn check_content(put: &PutAction, limits: &EffectiveLimits, system: &SystemLimits) -> Result<(), EntityError> {
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
mod tests {
    use protocol::{EntityPath, entity::ActionLimits, limits::LimitsBody};

    use super::*;

    fn name() -> FullyQualifiedName {
        FullyQualifiedName::new(EntityPath::namespace(EntityName::new("guest").unwrap()), EntityName::new("a").unwrap())
    }

    fn parameters(json: &str) -> Parameters {
        Parameters::from_json(serde_json::from_str(json).unwrap()).unwrap()
    }

    fn exec(kind: &str) -> Exec {
        let code = CodeRef { sha256: [0; 32], size: 0, binary: false, inline: true };
        Exec::Managed { kind: kind.into(), main: None, code }
    }

    fn put(content: ActionContent, settings: ActionSettings) -> PutAction {
        PutAction { overwrite: true, content, settings }
    }

    fn merged(put: PutAction, exec: Option<Exec>, stored: Option<&Action>) -> Result<Action, EntityError> {
        merge(&name(), put, exec, stored, &SystemLimits::default(), 5)
    }

    fn json(parameters: &Parameters) -> String {
        serde_json::to_string(parameters).unwrap()
    }

    #[test]
    fn a_new_action_gets_the_defaults() {
        let content = ActionContent {
            annotations: Some(parameters(r#"[{"key":"exec","value":"mine"},{"key":"x","value":1}]"#)),
            ..ActionContent::default()
        };
        let action = merged(put(content, ActionSettings::default()), Some(exec("nodejs:20")), None).unwrap();
        assert_eq!((action.version, action.publish, action.limits), (SemVer::FIRST, false, ActionLimits::default()));
        assert_eq!(action.updated_ms, 5);
        assert_eq!(
            json(&action.annotations),
            r#"[{"key":"exec","value":"nodejs:20"},{"key":"x","value":1},{"key":"provide-api-key","value":false}]"#
        );
        let refused = merged(put(ActionContent::default(), ActionSettings::default()), None, None).unwrap_err();
        assert_eq!((refused.code(), refused.text()), (ErrorCode::BadRequest, "exec undefined"));
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let stored = Action {
            version: SemVer { major: 1, minor: 2, patch: 3 },
            publish: true,
            parameters: parameters(r#"[{"key":"p","value":1}]"#),
            annotations: parameters(
                r#"[{"key":"a","value":1},{"key":"b","value":2},{"key":"exec","value":"nodejs:20"}]"#,
            ),
            limits: ActionLimits { memory_mb: 512, ..ActionLimits::default() },
            ..merged(put(ActionContent::default(), ActionSettings::default()), Some(exec("nodejs:20")), None).unwrap()
        };
        let same = merged(put(ActionContent::default(), ActionSettings::default()), None, Some(&stored)).unwrap();
        assert_eq!(same, Action { version: SemVer { major: 1, minor: 2, patch: 4 }, ..stored.clone() });

        let content = ActionContent {
            parameters: Some(parameters(r#"[{"key":"q","value":2}]"#)),
            annotations: Some(parameters(r#"[{"key":"b","value":3},{"key":"c","value":4}]"#)),
            ..ActionContent::default()
        };
        let settings = ActionSettings {
            del_annotations: vec!["a".into(), "exec".into()],
            limits: Some(LimitsBody { timeout_ms: Some(100), ..LimitsBody::default() }),
            version: Some(SemVer { major: 0, minor: 0, patch: 9 }),
            publish: Some(false),
        };
        let changed = merged(put(content, settings), Some(exec("python:3.11")), Some(&stored)).unwrap();
        assert_eq!(json(&changed.parameters), r#"[{"key":"q","value":2}]"#);
        assert_eq!(
            json(&changed.annotations),
            r#"[{"key":"b","value":3},{"key":"c","value":4},{"key":"exec","value":"python:3.11"}]"#
        );
        assert_eq!((changed.limits.timeout_ms, changed.limits.memory_mb), (100, 512));
        assert_eq!((changed.version.to_string().as_str(), changed.publish), ("0.0.9", false));
    }

    #[test]
    fn what_this_build_does_not_run_is_refused() {
        let limits = EffectiveLimits::of(&SystemLimits::default(), None);
        let refused = |content: ActionContent| {
            check_content(&put(content, ActionSettings::default()), &limits, &SystemLimits::default())
                .err()
                .map(|e| e.text().to_owned())
        };
        let sequence = Some(ExecBody::Sequence { components: vec![name()] });
        assert_eq!(refused(ActionContent { exec: sequence, ..Default::default() }).unwrap(), messages::NO_SEQUENCES);
        let conductor = |value: &str| ActionContent {
            annotations: Some(parameters(&format!(r#"[{{"key":"conductor","value":{value}}}]"#))),
            ..ActionContent::default()
        };
        assert_eq!(refused(conductor(r#"{"type":"action"}"#)).unwrap(), messages::NO_COMPOSITIONS);
        assert_eq!(refused(conductor("false")), None);
    }
}
