//! `…/activations`: records, read only, of the caller's own namespace.

use actix_web::HttpResponse;
use protocol::{
    ActivationId, EntityName,
    activation::{ActivationDocument, ActivationSummary, ResponseDocument},
    messages,
};
use raft_store::ActivationQuery;
use serde::Serialize;

use super::{
    error::ApiError,
    extract::{Call, Query},
    respond,
};

const COLLECTION: &str = "activations";

/// What of a record is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Record,
    Logs,
    Result,
}

/// `GET …/activations?name=&since=&upto=&docs=`: 200 list or count, newest start first · 400 · 403.
pub async fn list(call: &Call, namespace: EntityName) -> Result<HttpResponse, ApiError> {
    call.must_own(&namespace, &namespace)?;
    let paging = call.query.paging(&call.state, COLLECTION)?;
    let docs = call.query.boolean("docs", false)?;
    let query = activation_query(&call.query)?;
    if paging.count {
        if docs {
            return Err(ApiError::bad_request(messages::DOCS_WITH_COUNT));
        }
        let total = call.state.activations.count(&namespace, query).await?;
        return Ok(respond::count(COLLECTION, paging.counted(total)));
    }
    let records = call.state.activations.list(&namespace, query, paging.skip, paging.limit).await?;
    Ok(match docs {
        true => respond::ok(&records.iter().map(ActivationDocument).collect::<Vec<_>>()),
        false => respond::ok(&records.iter().map(ActivationSummary).collect::<Vec<_>>()),
    })
}

/// `GET …/activations/{id}[/logs|/result]`: 200 · 400 no id · 403 not the caller's · 404 not there, or not yet.
pub async fn get(call: &Call, namespace: EntityName, id: &str, part: Part) -> Result<HttpResponse, ApiError> {
    let id: ActivationId = id.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    call.must_own(&namespace, format_args!("{namespace}/{id}"))?;
    let record = call.state.activations.get(&namespace, id).await?.ok_or_else(ApiError::missing)?;
    #[derive(Serialize)]
    struct Logs<'a> {
        logs: &'a [String],
    }
    Ok(match part {
        Part::Record => respond::ok(&ActivationDocument(&record)),
        Part::Logs => respond::ok(&Logs { logs: &record.logs }),
        Part::Result => respond::ok(&ResponseDocument::from(&record.response)),
    })
}

fn activation_query(query: &Query) -> Result<ActivationQuery, ApiError> {
    let name = match query.get("name").map(str::trim).filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => {
            let parts: Vec<&str> = name.split('/').collect();
            if parts.len() > 2 || parts.iter().any(|part| EntityName::new(part).is_err()) {
                return Err(ApiError::query("name", messages::activation_name_malformed(name)));
            }
            Some(name.to_owned())
        }
    };
    let time = |key: &str| -> Result<Option<u64>, ApiError> {
        let Some(value) = query.get(key) else { return Ok(None) };
        let time: i64 = value.parse().map_err(|_| ApiError::query(key, messages::epoch_malformed(value)))?;
        // Nothing started before the epoch.
        Ok(Some(u64::try_from(time).unwrap_or(0)))
    };
    Ok(ActivationQuery { name, since_ms: time("since")?, upto_ms: time("upto")? })
}
