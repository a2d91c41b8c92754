//! Every text a user can see, as OpenWhisk words it. Clients and test suites compare them byte for byte.
//!
//! Source: apache/openwhisk `core/entity/ErrorResponse.scala` (`Messages`), `DockerContainer.scala`.

use std::fmt::Display;

// ---- what happens in a container ------------------------------------------------------------------------------

/// `/init` was not answered within the action's timeout.
pub fn timed_out_initializing(timeout_ms: u128) -> String {
    format!("The action exceeded its time limits of {timeout_ms} milliseconds during initialization.")
}

/// `/run` was not answered within the action's timeout.
pub fn timed_out(timeout_ms: u128) -> String {
    format!("The action exceeded its time limits of {timeout_ms} milliseconds.")
}

/// `/init` failed with a `body` that holds no `error`.
pub fn invalid_init_response(body: &str) -> String {
    if body.is_empty() {
        "The action failed during initialization.".to_owned()
    } else {
        format!("The action failed during initialization: {body}")
    }
}

/// `/run` answered a `body` that is no result.
pub fn invalid_run_response(body: &str) -> String {
    if body.is_empty() {
        "The action did not produce a valid JSON or JSON Array response.".to_owned()
    } else {
        format!("The action did not produce a valid JSON or JSON Array response: {body}")
    }
}

/// A body of `length` bytes where `limit` are allowed; `prefix` is what was read of it.
pub fn truncated_response(length: u64, limit: u64, prefix: &str) -> String {
    format!(
        "The action produced a response that exceeded the allowed length: {length} > {limit} bytes. The truncated \
         response was: {prefix}"
    )
}

/// The container ended during `/init`.
pub const ABNORMAL_INITIALIZATION: &str = "The action did not initialize and exited unexpectedly.";

/// The container ended during `/run`; also what is told when the platform itself failed there.
pub const ABNORMAL_RUN: &str = "The action did not produce a valid response and exited unexpectedly.";

/// The container was killed for its memory.
pub const MEMORY_EXHAUSTED: &str = "The action exhausted its memory and was aborted.";

/// No container could be made: the platform's fault.
pub const RESOURCE_PROVISION_ERROR: &str = "Failed to provision resources to run the action.";

/// The image of the user's cannot be had.
pub fn image_pull_error(image: impl Display) -> String {
    format!("Failed to pull container image '{image}'.")
}

// ---- log lines of the platform --------------------------------------------------------------------------------

/// The log limit was reached.
pub fn logs_truncated(limit_bytes: u64) -> String {
    format!("Logs were truncated because the total bytes size exceeds the limit of {limit_bytes} bytes.")
}

/// The end of the logs did not arrive.
pub const LOG_FAILURE: &str = "There was an issue while collecting your logs. Data might be missing.";

/// Every developer error's last line.
pub const LOG_WARNING_DEVELOPER_ERROR: &str =
    "The action did not initialize or run as expected. Log data might be missing.";
