//! What the node tells everybody about itself.

use std::collections::BTreeMap;

use actix_web::HttpResponse;
use serde::Serialize;

use super::{AppState, respond};
use crate::entities::kinds::Kind;

#[derive(Serialize)]
struct Root<'a> {
    description: &'static str,
    support: Support,
    api_paths: [&'static str; 1],
    limits: Limits,
    runtimes: &'a BTreeMap<String, Vec<Kind>>,
}

#[derive(Serialize)]
struct Support {
    github: &'static str,
    slack: &'static str,
}

/// Durations in milliseconds, memory and logs in bytes. `default_…`: of namespaces.
#[derive(Serialize)]
struct Limits {
    actions_per_minute: u32,
    triggers_per_minute: u32,
    concurrent_actions: u32,
    sequence_length: u32,
    default_min_action_duration: u32,
    default_max_action_duration: u32,
    default_min_action_memory: u64,
    default_max_action_memory: u64,
    default_min_action_logs: u64,
    default_max_action_logs: u64,
    min_action_duration: u32,
    max_action_duration: u32,
    min_action_memory: u64,
    max_action_memory: u64,
    min_action_logs: u64,
    max_action_logs: u64,
}

/// `GET /`: 200. Clients compare the whole, so nothing of ours stands there.
pub fn root(state: &AppState) -> HttpResponse {
    let limits = state.entities.system_limits();
    let bytes = |mb: u32| u64::from(mb) << 20;
    respond::ok(&Root {
        description: "OpenWhisk",
        support: Support { github: "https://github.com/apache/openwhisk/issues", slack: "http://slack.openwhisk.org" },
        api_paths: [super::BASE],
        limits: Limits {
            actions_per_minute: limits.invocations_per_minute,
            triggers_per_minute: limits.fires_per_minute,
            concurrent_actions: limits.concurrent_invocations,
            sequence_length: limits.sequence_length,
            default_min_action_duration: limits.timeout_ms.min,
            default_max_action_duration: limits.timeout_ms.max,
            default_min_action_memory: bytes(limits.memory_mb.min),
            default_max_action_memory: bytes(limits.memory_mb.max),
            default_min_action_logs: bytes(limits.logs_mb.min),
            default_max_action_logs: bytes(limits.logs_mb.max),
            min_action_duration: limits.timeout_ms.min,
            max_action_duration: limits.timeout_ms.max,
            min_action_memory: bytes(limits.memory_mb.min),
            max_action_memory: bytes(limits.memory_mb.max),
            min_action_logs: bytes(limits.logs_mb.min),
            max_action_logs: bytes(limits.logs_mb.max),
        },
        runtimes: state.entities.kinds().families(),
    })
}

/// The document that describes all that is served, kept by hand; a test compares it with the routes and with answers.
const OPENAPI: &str = include_str!("../../openapi.json");
/// Where it is, outside and under the API.
pub const API_DOCS: &str = "/api-docs";

/// `GET /api-docs` and `GET /api/v1/api-docs`: 200.
pub fn api_docs() -> HttpResponse {
    respond::static_json(OPENAPI)
}

#[derive(Serialize)]
struct Api {
    description: &'static str,
    api_version: &'static str,
    api_version_path: &'static str,
    build: &'static str,
    buildno: &'static str,
    swagger_paths: SwaggerPaths,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SwaggerPaths {
    api_docs: &'static str,
}

/// `GET /api/v1`: 200. Without upstream's page for people (`ui`), which is not there.
pub fn api() -> HttpResponse {
    respond::ok(&Api {
        description: "OpenWhisk API",
        api_version: "1.0.0",
        api_version_path: "v1",
        build: option_env!("WHISP_BUILD_DATE").unwrap_or("unknown"),
        buildno: env!("CARGO_PKG_VERSION"),
        swagger_paths: SwaggerPaths { api_docs: API_DOCS },
    })
}
