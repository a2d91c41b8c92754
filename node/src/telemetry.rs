//! Logs: where they go, how they look, and the spans that tie their lines together.
//!
//! Messages are constant text with fields. Parameters, results and keys are never logged.

use std::io::IsTerminal;

use protocol::{ActivationId, EntityName, FullyQualifiedName, TransactionId};
use tracing::Span;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Environment variable that chooses what is logged, such as `debug` or `info,node::containers=trace`.
pub const FILTER_VARIABLE: &str = "WHISP_LOG";
/// openraft tells of every election at `info`; on one node they mean nothing.
const DEFAULT_FILTER: &str = "info,openraft=warn,actix_server=warn";

/// [`FILTER_VARIABLE`] holds no filter.
#[derive(Debug, thiserror::Error)]
#[error("{FILTER_VARIABLE}={value:?} is no log filter: {reason}")]
pub struct FilterError {
    value: String,
    reason: String,
}

/// Sends logs, panics among them, to stderr from now on. Once per process; a second call changes nothing.
///
/// # Errors
/// [`FilterError`].
pub fn init(format: LogFormat) -> Result<(), FilterError> {
    let filter = filter(std::env::var(FILTER_VARIABLE).ok())?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    if done.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(%panic, %backtrace, "a thread panicked: please report this");
        }));
    }
    Ok(())
}

fn filter(value: Option<String>) -> Result<EnvFilter, FilterError> {
    let value = value.filter(|value| !value.trim().is_empty()).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    EnvFilter::try_new(&value).map_err(|error| FilterError { value, reason: error.to_string() })
}

/// The span of one API request.
pub fn request_span(transid: &TransactionId) -> Span {
    tracing::info_span!("request", %transid)
}

/// The span of one activation, inside its request's span if it has one.
pub fn activation_span(id: ActivationId, namespace: &EntityName, action: &FullyQualifiedName) -> Span {
    tracing::info_span!("activation", activation_id = %id, %namespace, %action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_the_variable_or_the_default() {
        assert_eq!(filter(None).unwrap().to_string().len(), DEFAULT_FILTER.len());
        assert_eq!(filter(Some(" ".into())).unwrap().to_string().len(), DEFAULT_FILTER.len());
        assert_eq!(filter(Some("debug".into())).unwrap().to_string(), "debug");
        let error = filter(Some("node=loudly".into())).unwrap_err().to_string();
        assert!(error.starts_with("WHISP_LOG=\"node=loudly\" is no log filter: "), "{error}");
    }
}
