//! `…/packages`: packages and bindings.

use actix_web::HttpResponse;
use protocol::{
    EntityName, FullyQualifiedName,
    entity::package::{PackageBody, PackageDocument, PackageSummary},
    json::Members,
};

use super::{
    body::{Body, MAX_BODY},
    error::ApiError,
    extract::Call,
    respond,
};

const COLLECTION: &str = "packages";

/// `GET …/packages`: 200 list or count. Of a foreign namespace what is published, which may be nothing.
pub async fn list(call: &Call, namespace: EntityName) -> Result<HttpResponse, ApiError> {
    let paging = call.query.paging(&call.state, COLLECTION)?;
    let (entities, caller) = (&call.state.entities, &call.caller.namespace);
    if paging.count {
        let total = entities.count_packages(caller, namespace).await?;
        return Ok(respond::count(COLLECTION, paging.counted(total)));
    }
    let packages = entities.list_packages(caller, namespace, paging.skip, paging.limit).await?;
    Ok(respond::ok(&packages.iter().map(PackageSummary::from).collect::<Vec<_>>()))
}

/// `GET …/packages/{name}`: 200 with what is in it · 403 not to be read · 404 · 409 no package · 422 circular.
pub async fn get(call: &Call, name: FullyQualifiedName) -> Result<HttpResponse, ApiError> {
    let found = call.state.entities.get_package(&call.caller.namespace, name).await?;
    Ok(respond::ok(&PackageDocument::from(&found.package).with_contents(&found.parameters, &found.actions)))
}

/// `PUT …/packages/{name}?overwrite=`: 200 the package as it is now · 400 · 403 · 409 it is there, is something else,
/// or changed meanwhile · 413 · 422 bound to itself.
pub async fn put(call: &Call, name: FullyQualifiedName, body: &mut Body) -> Result<HttpResponse, ApiError> {
    let entities = &call.state.entities;
    entities.check_package_owner(&call.caller.namespace, &name)?;
    let body = body.json(&call.caller.namespace, MAX_BODY).await?;
    let members = Members::parse(body.text()?)?;
    let content = PackageBody::content(&members)?;
    let limits = entities.limits(&call.caller.namespace).await?;
    let measured = [
        ("parameters", &content.parameters, limits.sizes.parameters),
        ("annotations", &content.annotations, entities.system_limits().parameters),
    ];
    for (what, entries, allowed) in measured {
        if let Some(size) = entries.as_ref().map(|entries| entries.size()).filter(|size| *size > allowed.bytes()) {
            return Err(ApiError::too_large(what, size, allowed));
        }
    }
    let overwrite = call.query.boolean("overwrite", false)?;
    entities.check_package_name(&name)?;
    let package = entities.put_package(name, content.with_settings(&members)?, overwrite).await?;
    Ok(respond::ok(&PackageDocument::from(&package)))
}

/// `DELETE …/packages/{name}?force=`: 200 what it was · 403 · 404 · 409 not empty, no package, or changed meanwhile.
pub async fn delete(call: &Call, name: FullyQualifiedName) -> Result<HttpResponse, ApiError> {
    call.state.entities.check_package_owner(&call.caller.namespace, &name)?;
    let force = call.query.boolean("force", false)?;
    let package = call.state.entities.delete_package(name, force).await?;
    Ok(respond::ok(&PackageDocument::from(&package)))
}
