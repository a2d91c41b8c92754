//! `POST …/actions/[{package}/]{name}`: step one of an invocation, and the last that its caller sees.

use std::time::Duration;

use actix_web::{HttpResponse, http::StatusCode};
use protocol::{
    Activation, ActivationId, ActivationStatus, ErrorCode, FullyQualifiedName, activation::ActivationDocument, messages,
};
use serde::Serialize;

use super::{body::Body, error::ApiError, extract::Call, respond};
use crate::invoke::{Invocation, Invoked};

/// Longest wait for a result.
const MAX_WAIT_MS: u64 = 60_000;

/// `?blocking=&result=&timeout=`: 200 the record, or with `result` what the action answered · 202 accepted, or the wait
/// is over · 502 the action failed · 500 the platform did. All of these name the activation. 400 · 403 · 404 · 409 ·
/// 413 · 429 · 503: there is none.
pub async fn invoke(call: &Call, name: FullyQualifiedName, body: &mut Body) -> Result<HttpResponse, ApiError> {
    if call.state.serving.is_draining() {
        return Err(ApiError::default_of(ErrorCode::Unavailable));
    }
    let entities = &call.state.entities;
    let resolved = entities.resolve(&call.caller.namespace, &name).await;
    call.may_read(&name, &resolved).await?;
    // The size is held against the limit, and the body read, before it is told that the action does not exist.
    let limits = entities.limits(&call.caller.namespace).await?;
    body.check_declared(limits.sizes.payload)?;
    let wanted = Wanted::of(call)?;
    let body = body.json(&call.caller.namespace, limits.sizes.payload).await?;
    let payload = match body.text()? {
        "" => "{}",
        text => text,
    };
    let action = match resolved {
        Ok(action) => action,
        Err(error) => {
            protocol::json::Members::parse(payload)?;
            return Err(error.into());
        }
    };
    let arguments = action.arguments(payload)?;
    // A call may wait for a minute; its body need not.
    drop(body);
    let kind = action.action.exec.kind();
    if entities.kinds().is_deprecated(kind) {
        return Err(ApiError::bad_request(messages::runtime_deprecated(kind)));
    }

    let invocation = Invocation {
        identity: call.caller.clone(),
        action,
        arguments: arguments.run,
        init_env: arguments.init_env,
        blocking: wanted.wait,
        transaction_id: call.transaction.clone(),
        received_ms: call.received_ms,
        extra_logging: call.extra_logging,
    };
    Ok(match call.state.invoker.invoke(invocation).await? {
        Invoked::Accepted(id) => accepted(&id),
        Invoked::Done(record) => done(&record, wanted.result_only),
    })
}

struct Wanted {
    /// `None`: not to wait.
    wait: Option<Duration>,
    result_only: bool,
}

impl Wanted {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let blocking = call.query.boolean("blocking", false)?;
        let result_only = call.query.boolean("result", false)?;
        // Looked at even if nobody waits.
        let timeout_ms = match call.query.get("timeout") {
            None => MAX_WAIT_MS,
            Some(value) => value
                .parse()
                .ok()
                .filter(|ms| (1..=MAX_WAIT_MS).contains(ms))
                .ok_or_else(|| ApiError::query("timeout", messages::TIMEOUT_PARAMETER))?,
        };
        Ok(Self { wait: blocking.then(|| Duration::from_millis(timeout_ms)), result_only })
    }
}

fn accepted(id: &ActivationId) -> HttpResponse {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Accepted<'a> {
        activation_id: &'a ActivationId,
    }
    let mut response = respond::json(StatusCode::ACCEPTED, &Accepted { activation_id: id });
    respond::name_activation(&mut response, id);
    response
}

fn done(record: &Activation, result_only: bool) -> HttpResponse {
    let status = match record.response.status {
        ActivationStatus::Success => StatusCode::OK,
        ActivationStatus::ApplicationError | ActivationStatus::DeveloperError => StatusCode::BAD_GATEWAY,
        ActivationStatus::WhiskError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let result = record.response.result.as_ref().map_or("{}", |result| result.as_str());
    // Arrays are answered bare, whatever was asked for.
    let mut response = if result_only || result.trim_start().starts_with('[') {
        respond::json_text(status, result.to_owned())
    } else {
        respond::json(status, &ActivationDocument(record))
    };
    respond::name_activation(&mut response, &record.activation_id);
    response
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use protocol::{
        EntityName, RawJson,
        activation::Response,
        entity::{Parameters, SemVer},
    };

    use super::*;

    fn record(status: ActivationStatus, result: &str) -> Activation {
        let name = |text| EntityName::new(text).unwrap();
        Activation {
            namespace: name("guest"),
            name: name("a"),
            version: SemVer::FIRST,
            subject: "guest".into(),
            activation_id: ActivationId::from_bytes([7; 16]),
            cause: None,
            start_ms: 1,
            end_ms: Some(2),
            duration_ms: Some(1),
            response: Response { status, result: Some(RawJson::parse(result).unwrap()), size: None },
            logs: vec![],
            annotations: Parameters::default(),
            publish: false,
            filter_name: "a".into(),
        }
    }

    #[actix_web::test]
    async fn outcomes_as_answers() {
        use ActivationStatus::*;
        for (outcome, status) in [(Success, 200), (ApplicationError, 502), (DeveloperError, 502), (WhiskError, 500)] {
            let response = done(&record(outcome, r#"{"error":1}"#), true);
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().get("x-openwhisk-activation-id").unwrap(), &"07".repeat(16));
            assert_eq!(to_bytes(response.into_body()).await.unwrap(), r#"{"error":1}"#);
        }
        let whole = done(&record(Success, "{}"), false);
        assert!(to_bytes(whole.into_body()).await.unwrap().starts_with(br#"{"namespace":"guest","name":"a","#));
        let bare = done(&record(Success, "[1]"), false);
        assert_eq!(to_bytes(bare.into_body()).await.unwrap(), "[1]");
        let accepted = accepted(&ActivationId::from_bytes([7; 16]));
        assert_eq!(accepted.status(), StatusCode::ACCEPTED);
        assert_eq!(
            to_bytes(accepted.into_body()).await.unwrap(),
            format!(r#"{{"activationId":"{}"}}"#, "07".repeat(16))
        );
    }
}
