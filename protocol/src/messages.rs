//! Every text that a user can see, worded as OpenWhisk words it: clients and test suites compare them.
//!
//! Source: apache/openwhisk `common/scala/.../core/http/ErrorResponse.scala` (object `Messages`),
//! `ActivationResult.scala`; reference `rest-api.md`.

use std::fmt::Display;

use crate::{error::ErrorCode, size::ByteSize};

// ---- when a handler has nothing better to say ------------------------------------------------------------------------

/// The text of an error that brings none of its own.
pub const fn default_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => "The request contains bad syntax or cannot be fulfilled.",
        ErrorCode::Unauthenticated => "Authentication is possible but has failed or not yet been provided.",
        ErrorCode::Forbidden => "The supplied authentication is not authorized to access this resource.",
        ErrorCode::NotFound => "The requested resource does not exist.",
        ErrorCode::NotAcceptable => "Resource representation is only available with these types:\napplication/json",
        ErrorCode::Conflict => {
            "The request could not be processed because of conflict in the request, such as an edit conflict."
        }
        ErrorCode::RequestTimeout => "The server timed out waiting for the request.",
        ErrorCode::TooLarge => "The request content is larger than the server is willing or able to process.",
        ErrorCode::UriTooLong => "The request URI is longer than the server is willing to interpret.",
        ErrorCode::HeadTooLarge => {
            "The server is unwilling to process the request because either an individual header field, or all the header fields collectively, are too large."
        }
        ErrorCode::UnsupportedMediaType => "The request's Content-Type is not supported. Expected:\napplication/json",
        ErrorCode::Unprocessable => "The request was well-formed but was unable to be followed due to semantic errors.",
        ErrorCode::TooManyRequests => "The user has sent too many requests in a given amount of time.",
        ErrorCode::Internal => "There was an internal server error.",
        ErrorCode::Unavailable => {
            "The server is currently unavailable (because it is overloaded or down for maintenance)."
        }
    }
}

// ---- routing and decoding --------------------------------------------------------------------------------------------

pub const NO_CREDENTIALS: &str = "The resource requires authentication, which was not supplied with the request";
pub const INVALID_CREDENTIALS: &str = "The supplied authentication is invalid";
/// No route matched.
pub const NO_SUCH_RESOURCE: &str = "The requested resource could not be found.";
pub const OBJECT_EXPECTED: &str = "JSON object expected";
/// `GET …/limits/x`.
pub const NO_INNER_LIMITS: &str = "Inner entity level routes for limits are not yet implemented.";

/// A body that cannot be read, or whose members are not what they must be.
pub fn malformed_content(reason: impl Display) -> String {
    format!("The request content was malformed:\n{reason}")
}

pub fn malformed_query(name: &str, reason: impl Display) -> String {
    format!("The query parameter '{name}' was malformed:\n{reason}")
}

/// Ours: upstream has no bound on the memory of bodies.
pub const NO_ROOM_FOR_BODY: &str = "The server has no memory for large requests now: too many came at once.";

/// Ours: upstream gives a request 65 s in all, and then the status alone.
pub const BODY_TOO_SLOW: &str = "The body of the request took too long to arrive.";

/// `found`: the request's media type as sent, with its charset.
pub fn unsupported_content_type(found: &str) -> String {
    format!("The request's Content-Type [{found}] is not supported. Expected:\napplication/json")
}

pub fn not_a_boolean(value: &str) -> String {
    format!("'{value}' is not a valid Boolean value")
}

// ---- names -------------------------------------------------------------------------------------------------------

/// The spelling is upstream's.
pub fn segment_too_long(length: usize, allowed: usize) -> String {
    format!("Name segement longer than allowed: {length} > {allowed}.")
}

pub const ILLEGAL_ENTITY_NAME: &str = "The name of the entity contains illegal characters.";

pub fn namespace_too_long(length: usize, allowed: usize) -> String {
    format!("Namespace longer than allowed: {length} > {allowed}.")
}

pub const ILLEGAL_NAMESPACE: &str = "The namespace contains illegal characters.";
pub const FQN_TOO_SHORT: &str = "requirement failed: The fully qualified name of the entity must contain at least the namespace and the name of the entity.";
pub const FQN_MALFORMED: &str = "fully qualified name malformed";

pub fn path_invalid(path: &str) -> String {
    format!("requirement failed: path contains invalid parts {path}")
}

// ---- entities in general -------------------------------------------------------------------------------------------

pub const RESOURCE_DOES_NOT_EXIST: &str = default_text(ErrorCode::NotFound);
pub const ALREADY_EXISTS: &str = "resource already exists";
pub const WRONG_COLLECTION: &str = "Resource by this name exists but is not in this collection.";
pub const CONCURRENT_MODIFICATION: &str = "Concurrent modification to resource detected.";
pub const CORRUPTED: &str = "Resource is corrupted and cannot be read.";
pub const VERSION_MALFORMED: &str = "semantic version malformed";
pub const PARAMETERS_MALFORMED: &str = "parameters malformed!";

/// Packages name themselves when they are missing.
pub fn named_resource_does_not_exist(name: impl Display) -> String {
    format!("The requested resource '{name}' does not exist.")
}

/// Ours: upstream's database is another machine.
pub const DISK_FULL: &str =
    "The disk of this node is full: nothing can be written or accepted until there is room again.";

/// `names`: without a leading slash, sorted, joined by `, `.
pub fn not_authorized(names: impl Display) -> String {
    format!("The supplied authentication is not authorized to access '{names}'.")
}

/// `what`: `exec`, `parameters`, `annotations` or `Request`.
pub fn larger_than_allowed(what: &str, size: u64, allowed: ByteSize) -> String {
    format!("{what} larger than allowed: {size} > {} bytes.", allowed.bytes())
}

// ---- lists -----------------------------------------------------------------------------------------------------------

pub fn limit_out_of_range(value: i64, max: u32, collection: &str) -> String {
    format!("The value '{value}' is not in the range of 0 to {max} for {collection}.")
}

pub fn skip_out_of_range(value: i64, collection: &str) -> String {
    format!("The value '{value}' is not greater than or equal to 0 for {collection}.")
}

pub fn not_an_integer(value: &str, collection: &str) -> String {
    format!("The value '{value}' is not an integer for {collection}.")
}

// ---- actions ---------------------------------------------------------------------------------------------------------

pub const EXEC_UNDEFINED: &str = "exec undefined";
pub const KIND_NOT_A_STRING: &str = "'kind' must be a string defined in 'exec'";
pub const IMAGE_NOT_A_STRING: &str = "'image' must be a string defined in 'exec' for 'blackbox' actions";
pub const IMAGE_MALFORMED: &str = "could not parse image name";
/// Ours: upstream knows them, this build does not run them.
pub const NO_SEQUENCES: &str = "This build does not run sequences yet: actions of kind 'sequence' cannot be created.";
/// Ours, as above.
pub const NO_COMPOSITIONS: &str =
    "This build does not run compositions yet: actions with the annotation 'conductor' cannot be created.";
pub const FINAL_PARAMETERS: &str = "Request defines parameters that are not allowed (e.g., reserved properties).";
pub const TIMEOUT_PARAMETER: &str = "Timeout must be number of milliseconds up to 60000.";

/// `kinds`: all that can be used.
pub fn runtime_not_supported<K: Display>(kind: &str, kinds: impl IntoIterator<Item = K>) -> String {
    let kinds: Vec<String> = kinds.into_iter().map(|kind| format!("'{kind}'")).collect();
    format!("The specified runtime '{kind}' is not supported by this platform. Valid values are: {}.", kinds.join(", "))
}

/// `attached`: the manifest keeps this kind's code as an attachment.
pub fn code_missing(kind: &str, attached: bool) -> String {
    let or = if attached { " or attachment object" } else { "" };
    format!("'code' must be a string{or} defined in 'exec' for '{kind}' actions")
}

pub fn code_not_attachment(found: impl Display) -> String {
    format!("Could not deserialize as attachment record: {found}")
}

pub fn main_missing(kind: &str) -> String {
    format!("'main' must be a string defined in 'exec' for '{kind}' actions")
}

pub fn main_not_a_string(kind: &str) -> String {
    format!("if defined, 'main' be a string in 'exec' for '{kind}' actions")
}

pub fn runtime_deprecated(kind: &str) -> String {
    format!(
        "The '{kind}' runtime is no longer supported. You may read and delete but not update or invoke this action."
    )
}

/// Ours: OpenWhisk's images bring compilers.
pub fn executable_needed(kind: &str) -> String {
    format!(
        "The source code of '{kind}' actions cannot be compiled on this platform. Send an executable, or an archive that \
         holds one named 'exec'."
    )
}

pub fn kind_not_allowed(kind: &str) -> String {
    format!("The supplied authentication is not authorized to access actions of kind '{kind}'.")
}

pub fn instances_exceed_concurrency(allowed: u32) -> String {
    format!("Max action instance concurrency must not exceed your namespace concurrency of {allowed}.")
}

// ---- packages --------------------------------------------------------------------------------------------------------

pub const PACKAGE_RESERVED: &str = "Package name 'default' is reserved.";
pub const BINDING_TO_MISSING: &str = "Binding references a package that does not exist.";
pub const BINDING_TO_NON_PACKAGE: &str = "Cannot bind to a resource that is not a package.";
pub const BINDING_TO_BINDING: &str = "Cannot bind to another package binding.";
pub const PACKAGE_TO_BINDING: &str = "Resource is a package and cannot be converted into a binding.";
pub const NOT_ON_BINDING: &str = "Operation not permitted on package binding.";

pub fn circular_binding(name: impl Display) -> String {
    format!("Package binding '{name}' contains a circular reference.")
}

pub fn package_not_empty(count: u64) -> String {
    let entities = if count == 1 { "entity" } else { "entities" };
    format!("Package not empty (contains {count} {entities}). Set force param or delete package contents.")
}

// ---- activations -------------------------------------------------------------------------------------------------------

pub const DOCS_WITH_COUNT: &str = "The parameter 'docs' is not permitted with 'count'.";

pub fn activation_name_malformed(value: &str) -> String {
    format!("Parameter may be a 'simple' name or 'package-name/simple' name: {value}")
}

/// The text says seconds; the values are milliseconds.
pub fn epoch_malformed(value: &str) -> String {
    format!("Parameter is not a valid value for epoch seconds: {value}")
}

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

/// What ActionLoop's proxy, which outlives the action's process, tells of its end during `/run`.
pub const COMMAND_EXITED: &str = "command exited";

/// The same during `/init`; the first stands in the logs.
pub const COMMAND_EXITED_INITIALIZING: &str = "Command exited abruptly during initialization.";
pub const CANNOT_START: &str = "Cannot start action. Check logs for details.";

/// The container was killed for its memory.
pub const MEMORY_EXHAUSTED: &str = "The action exhausted its memory and was aborted.";

/// No container could be made: the platform's fault.
pub const RESOURCE_PROVISION_ERROR: &str = "Failed to provision resources to run the action.";

/// The image of the user's cannot be had.
pub fn image_pull_error(image: impl Display) -> String {
    format!("Failed to pull container image '{image}'.")
}

/// The command of the user's image is not in it.
pub fn executable_not_found(image: impl Display) -> String {
    format!("executable file not found in image {image}")
}

/// The action was deleted between acceptance and start.
pub const ACTION_REMOVED: &str = "Action could not be found or may have been deleted.";
pub const ACTION_VERSION_MISMATCH: &str = "Action version is not compatible and cannot be invoked.";
pub const ACTION_FETCH_ERROR: &str = "Action could not be fetched.";
pub const NAMESPACE_BLACKLISTED: &str = "The action was not invoked due to a blacklisted namespace.";

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
