//! `…/activations`: records, read only, of the caller's own namespace.

use std::io;

use actix_web::{HttpResponse, web::Bytes};
use futures_util::{Stream, StreamExt, future, stream};
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
use crate::activations::query::Activations;

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
    let found = call.state.activations.summaries(&namespace, query, paging.skip, paging.limit).await?;
    if docs {
        let ids = found.iter().map(|record| record.activation_id).collect();
        return Ok(respond::stream(documents(call.state.activations.clone(), namespace, ids)));
    }
    Ok(respond::ok(&found.iter().map(ActivationSummary).collect::<Vec<_>>()))
}

/// The array of whole records, one in memory at a time: with their logs and results 200 of them can be gigabytes.
fn documents(
    activations: Activations,
    namespace: EntityName,
    ids: Vec<ActivationId>,
) -> impl Stream<Item = Result<Bytes, io::Error>> + 'static {
    let mut separator = "";
    let records = stream::iter(ids).then(move |id| {
        let (activations, namespace) = (activations.clone(), namespace.clone());
        async move { activations.get(&namespace, id).await }
    });
    let items = records.filter_map(move |record| {
        let item = match record {
            // Retention took it since the ids were read.
            Ok(None) => None,
            Ok(Some(record)) => Some(
                serde_json::to_string(&ActivationDocument(&record))
                    .map(|json| Bytes::from(format!("{}{json}", std::mem::replace(&mut separator, ","))))
                    .map_err(io::Error::other),
            ),
            Err(error) => {
                tracing::error!(%error, "a list of records ends early");
                Some(Err(io::Error::other(error)))
            }
        };
        future::ready(item)
    });
    let end = |bracket| stream::once(future::ready(Ok(Bytes::from_static(bracket))));
    end(b"[").chain(items).chain(end(b"]"))
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
    let name = match query.get("name").filter(|name| !name.trim().is_empty()) {
        None => None,
        Some(name) => {
            // As in all paths, empty parts do not count.
            let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
            if !(1..=2).contains(&parts.len()) || parts.iter().any(|part| EntityName::new(part).is_err()) {
                return Err(ApiError::query("name", messages::activation_name_malformed(name)));
            }
            Some(parts.join("/"))
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
