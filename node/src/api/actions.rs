//! `…/actions`: management. Invocations are in `invoke.rs`.

use actix_web::{HttpResponse, http::StatusCode, web};
use protocol::{
    ByteSize, EntityName, ErrorCode, FullyQualifiedName,
    entity::action::{ActionContent, ActionDocument, ActionSettings, ActionSummary},
    json::Members,
    messages,
};

use super::{
    body::{Body, MAX_BODY, ReadBody, Room},
    error::ApiError,
    extract::{Call, Paging},
    respond,
};
use crate::entities::{
    Entities,
    actions::{ActionWithCode, ActionsHome, PutAction},
};

const COLLECTION: &str = "actions";
/// Documents larger than this are read and written where they hold nobody up.
const LARGE: usize = 64 << 10;

/// `GET …/actions`: 200 list or count · 403 not the caller's.
pub async fn list(call: &Call, namespace: EntityName) -> Result<HttpResponse, ApiError> {
    call.must_own(&namespace, &namespace)?;
    let paging = call.query.paging(&call.state, COLLECTION)?;
    list_of(call, ActionsHome::Namespace(namespace), paging).await
}

/// `GET …/actions/{package}/`: 200 list or count · 403 not to be read · 404 no such package · 409 no package.
pub async fn list_package(call: &Call, package: FullyQualifiedName) -> Result<HttpResponse, ApiError> {
    let paging = match call.query.paging(&call.state, COLLECTION) {
        Ok(paging) => paging,
        Err(error) => {
            // Whether the caller may read it at all comes first.
            call.state.entities.check_reach(&call.caller.namespace, package).await?;
            return Err(error);
        }
    };
    list_of(call, ActionsHome::Package(package), paging).await
}

async fn list_of(call: &Call, home: ActionsHome, paging: Paging) -> Result<HttpResponse, ApiError> {
    let (entities, caller) = (&call.state.entities, &call.caller.namespace);
    if paging.count {
        let total = entities.count_actions(caller, home).await?;
        return Ok(respond::count(COLLECTION, paging.counted(total)));
    }
    let actions = entities.list_actions(caller, home, paging.skip, paging.limit).await?;
    Ok(respond::ok(&actions.iter().map(ActionSummary::from).collect::<Vec<_>>()))
}

/// `GET …/actions/[{package}/]{name}?code=`: 200 · 403 · 404 · 409 something else by that name.
pub async fn get(call: &Call, name: FullyQualifiedName) -> Result<HttpResponse, ApiError> {
    let with_code = call.query.boolean("code", true);
    let entities = &call.state.entities;
    let resolved = entities.resolve(&call.caller.namespace, &name).await;
    if resolved.is_err() && with_code.is_err() {
        call.may_read(&name, &resolved).await?;
    }
    let (with_code, resolved) = (with_code?, resolved?);
    let code = resolved.action.exec.code().filter(|_| with_code);
    // Room first, then the code: many may ask for large code at once.
    let room = call.bodies.reserve(&call.caller.namespace, code.map_or(0, |code| code.size)).await?;
    let code = if with_code { entities.code(&resolved).await? } else { None };
    let found = ActionWithCode {
        action: resolved.action.clone(),
        code,
        merged: Some(resolved.parameters.clone()),
        binding: resolved.binding.clone(),
    };
    shown(found, !with_code, room).await
}

/// `PUT …/actions/[{package}/]{name}?overwrite=`: 200 the action as it is now · 400 · 403 · 404 package · 409 it is
/// there, is something else, or changed meanwhile · 413.
pub async fn put(call: &Call, name: FullyQualifiedName, body: &mut Body) -> Result<HttpResponse, ApiError> {
    let entities = &call.state.entities;
    entities.check_home(&call.caller.namespace, &name).await?;
    let body = body.json(&call.caller.namespace, MAX_BODY).await?;
    let limits = entities.limits(&call.caller.namespace).await?;
    let sizes = Sizes {
        exec: entities.system_limits().exec,
        parameters: limits.sizes.parameters,
        annotations: entities.system_limits().parameters,
    };
    let overwrite = call.query.boolean("overwrite", false);
    let put = if body.bytes.len() <= LARGE {
        decode(&body, entities, sizes, overwrite)?
    } else {
        let entities = entities.clone();
        blocking(move || decode(&body, &entities, sizes, overwrite)).await??
    };
    let written = entities.put_action(name, put).await?;
    let room = room_to_show(call, &written).await?;
    shown(written, false, room).await
}

/// `DELETE …/actions/[{package}/]{name}`: 200 what it was · 400 in a binding · 403 · 404 · 409.
pub async fn delete(call: &Call, name: FullyQualifiedName) -> Result<HttpResponse, ApiError> {
    call.state.entities.check_home(&call.caller.namespace, &name).await?;
    let deleted = call.state.entities.delete_action(name).await?;
    let room = room_to_show(call, &deleted).await?;
    shown(deleted, false, room).await
}

#[derive(Clone, Copy)]
struct Sizes {
    exec: ByteSize,
    parameters: ByteSize,
    annotations: ByteSize,
}

/// Heavy members first, then their sizes, then the query, then the rest: who makes several mistakes is told the first.
fn decode(
    body: &ReadBody,
    entities: &Entities,
    sizes: Sizes,
    overwrite: Result<bool, ApiError>,
) -> Result<PutAction, ApiError> {
    let members = Members::parse(body.text()?)?;
    let content = ActionContent::from_json(&members, entities.kinds())?;
    let measured = [
        ("exec", content.exec.as_ref().map(|exec| exec.size()), sizes.exec),
        ("parameters", content.parameters.as_ref().map(|parameters| parameters.size()), sizes.parameters),
        ("annotations", content.annotations.as_ref().map(|annotations| annotations.size()), sizes.annotations),
    ];
    for (what, size, allowed) in measured {
        if let Some(size) = size.filter(|size| *size > allowed.bytes()) {
            return Err(ApiError::too_large(what, size, allowed));
        }
    }
    let overwrite = overwrite?;
    Ok(PutAction { overwrite, content, settings: ActionSettings::from_json(&members)? })
}

/// `with_binding`: names the binding that it was reached through. `room`: in the budget, until the answer is sent.
async fn shown(found: ActionWithCode, with_binding: bool, room: Option<Room>) -> Result<HttpResponse, ApiError> {
    let large = found.code.as_ref().is_some_and(|code| code.len() > LARGE);
    let write = move || -> Result<String, ApiError> {
        let ActionWithCode { action, code, merged, binding } = &found;
        let document = ActionDocument::new(action, code.as_deref()).map_err(|error| {
            tracing::error!(action = %action.fqn(), %error, "an action cannot be shown");
            ApiError::new(ErrorCode::Internal, messages::CORRUPTED)
        })?;
        let document = match merged {
            Some(parameters) => document.with_parameters(parameters),
            None => document,
        };
        let document = if with_binding { document.through(binding.as_ref()) } else { document };
        serde_json::to_string(&document).map_err(|error| {
            tracing::error!(action = %action.fqn(), %error, "an action cannot be shown");
            ApiError::default_of(ErrorCode::Internal)
        })
    };
    Ok(match large {
        true => respond::large_json(blocking(write).await??, room),
        false => respond::json_text(StatusCode::OK, write()?),
    })
}

/// In the budget, for the code of an action that is shown.
async fn room_to_show(call: &Call, found: &ActionWithCode) -> Result<Option<Room>, ApiError> {
    let size = found.code.as_ref().map_or(0, |code| code.len() as u64);
    call.bodies.reserve(&call.caller.namespace, size).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    web::block(work).await.map_err(|_| ApiError::default_of(ErrorCode::Unavailable))
}
