//! The collection of actions: create, update, get, delete, list. What a `PUT` makes of what is stored is in `put.rs`.
//!
//! Every write is optimistic: read what is stored, decide, and propose the outcome on the condition that it is still
//! stored. Who loses the race is told so.

mod put;

use std::ops::ControlFlow;

use bytes::Bytes;
use protocol::{
    EntityName, FullyQualifiedName,
    command::{Condition, MetaKey, MetaOp, MetaTxn},
    entity::{Action, Collection, Entity, Parameters},
    messages,
};

pub use self::put::PutAction;
use super::{
    Entities, EntityError, Source,
    reach::{Reached, reach},
    resolve::entity_with_code,
};

/// An action with its code as stored, if it has any.
#[derive(Debug, Clone)]
pub struct ActionWithCode {
    pub action: Action,
    pub code: Option<Bytes>,
    /// What it inherits merged in; `None`: nothing is to be shown but its own.
    pub merged: Option<Parameters>,
    pub binding: Option<FullyQualifiedName>,
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
        // Before large code is: that is not part of the write.
        self.check_room()?;
        let limits = self.limits(&name.path.namespace).await?;
        let (action, code, txn) = self
            .reading(move |entities| {
                put::check_content(&put, &limits, &entities.0.limits)?;
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
