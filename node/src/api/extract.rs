//! What handlers read of a request: who calls, what the path names, what the query says.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use actix_web::{
    HttpRequest,
    http::{
        Method,
        header::{ACCEPT, AUTHORIZATION},
    },
    web,
};
use protocol::{
    EntityName, EntityPath, ErrorCode, FullyQualifiedName, TransactionId,
    identity::Identity,
    messages,
    names::{MAX_NAME, NameError},
};
use rand::{Rng, distr::Alphanumeric};

use super::{AppState, body::BodyBudget, error::ApiError, respond::REQUEST_ID};
use crate::entities::EntityError;

/// Longer ids than this are not adopted: they are stored with queued work and go into containers.
const MAX_TRANSACTION_ID: usize = 4096;

/// An authenticated request without its body.
pub struct Call {
    pub state: web::Data<AppState>,
    /// Memory that large bodies share.
    pub bodies: web::Data<BodyBudget>,
    pub caller: Arc<Identity>,
    pub transaction: TransactionId,
    /// When it arrived, milliseconds since the epoch.
    pub received_ms: u64,
    /// `X-OW-EXTRA-LOGGING: on`
    pub extra_logging: bool,
    pub query: Query,
    method: Method,
}

/// `X-OW-EXTRA-LOGGING: on`
pub fn extra_logging(request: &HttpRequest) -> bool {
    request.headers().get("x-ow-extra-logging").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"on"))
}

impl Call {
    /// # Errors
    /// Whoever calls is not known (401), or wants no JSON (406).
    pub fn new(
        request: &HttpRequest,
        state: web::Data<AppState>,
        bodies: web::Data<BodyBudget>,
        transaction: TransactionId,
        received_ms: u64,
    ) -> Result<Self, ApiError> {
        let header = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
        let source = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let caller = state.keys.authenticate(header, source, received_ms)?;
        if !accepts_json(request) {
            return Err(ApiError::default_of(ErrorCode::NotAcceptable));
        }
        let extra_logging = extra_logging(request);
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let method = request.method().clone();
        Ok(Self { state, bodies, caller, transaction, received_ms, extra_logging, query, method })
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The namespace that a path segment names; `_` is the caller's own.
    ///
    /// # Errors
    /// 400 if it is no name.
    pub fn namespace(&self, segment: &str) -> Result<EntityName, ApiError> {
        if segment == "_" {
            return Ok(self.caller.namespace.clone());
        }
        EntityName::new(segment).map_err(|error| match error {
            NameError::TooLong(length) => ApiError::bad_request(messages::namespace_too_long(length, MAX_NAME)),
            NameError::Illegal => ApiError::bad_request(messages::ILLEGAL_NAMESPACE),
        })
    }

    /// The entity that path segments name.
    ///
    /// # Errors
    /// 400 if one is no name.
    pub fn entity(
        &self,
        namespace: EntityName,
        package: Option<&str>,
        name: &str,
    ) -> Result<FullyQualifiedName, ApiError> {
        let package = package.map(entity_name).transpose()?;
        Ok(FullyQualifiedName::new(EntityPath { namespace, package }, entity_name(name)?))
    }

    /// Refuses other namespaces than the caller's. `what`: as the caller is told.
    ///
    /// # Errors
    /// 403
    pub fn must_own(&self, namespace: &EntityName, what: impl std::fmt::Display) -> Result<(), ApiError> {
        if *namespace == self.caller.namespace { Ok(()) } else { Err(ApiError::forbidden(what)) }
    }

    /// Refuses now if `resolved`, which `name` came to, says that the caller may not read what is there: that comes
    /// before other refusals, and that it does not exist comes after them.
    ///
    /// # Errors
    /// 403, and what [`check_reach`](crate::entities::Entities::check_reach) has to say of a package.
    pub async fn may_read<T>(
        &self,
        name: &FullyQualifiedName,
        resolved: &Result<T, EntityError>,
    ) -> Result<(), ApiError> {
        match (resolved, name.package()) {
            (Ok(_), _) => Ok(()),
            (Err(EntityError::Refused(ErrorCode::Forbidden, text)), _) => {
                Err(ApiError::new(ErrorCode::Forbidden, text.as_str()))
            }
            (Err(_), None) => Ok(()),
            (Err(_), Some(package)) => Ok(self.state.entities.check_reach(&self.caller.namespace, package).await?),
        }
    }
}

fn entity_name(segment: &str) -> Result<EntityName, ApiError> {
    EntityName::new(segment).map_err(|error| match error {
        NameError::TooLong(length) => ApiError::bad_request(messages::segment_too_long(length, MAX_NAME)),
        NameError::Illegal => ApiError::bad_request(messages::ILLEGAL_ENTITY_NAME),
    })
}

/// The segments of a path that begins with a slash, percent-decoded one by one.
///
/// # Errors
/// 400 for escapes that are none, or that are no UTF-8.
pub fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, ApiError> {
    let decoded = path.split('/').skip(1).map(|segment| percent_decoded(segment, false));
    decoded.collect::<Option<_>>().ok_or_else(|| ApiError::bad_request(messages::ILLEGAL_ENTITY_NAME))
}

fn percent_decoded(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| (byte as char).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The caller's id for the request, or 32 random letters and digits. Ids that begin with `sid_` are the system's.
pub fn transaction_id(request: &HttpRequest) -> TransactionId {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given.filter(|id| (1..=MAX_TRANSACTION_ID).contains(&id.len()) && !id.starts_with("sid_")) {
        Some(id) => TransactionId(id.into()),
        None => new_transaction_id(),
    }
}

/// 32 random letters and digits.
pub fn new_transaction_id() -> TransactionId {
    let id: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
    TransactionId(id.into())
}

fn accepts_json(request: &HttpRequest) -> bool {
    let Some(accept) = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()) else { return true };
    let mut ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim()).peekable();
    accept.trim().is_empty()
        || ranges.any(|range| {
            ["*/*", "*", "application/*", "application/json"].iter().any(|json| range.eq_ignore_ascii_case(json))
        })
}

/// The query of a request. Unknown parameters are never looked at.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// `limit` and `skip` of a list, and `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    pub skip: usize,
    pub limit: usize,
    /// The number is wanted, not the list.
    pub count: bool,
}

impl Paging {
    /// `count` ignores `limit` and subtracts `skip`.
    pub fn counted(&self, total: u64) -> u64 {
        total.saturating_sub(self.skip as u64)
    }
}

impl Query {
    fn parse(query: &str) -> Self {
        let decoded = |text| percent_decoded(text, true).unwrap_or(Cow::Borrowed(text)).into_owned();
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Self(pairs.collect())
    }

    /// The value of `name`; none if it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// # Errors
    /// 400 for anything but `true|yes|on|1` and `false|no|off|0`.
    pub fn boolean(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        match value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(ApiError::query(name, messages::not_a_boolean(value))),
        }
    }

    /// The parameters that every list has. `collection`: as the texts name it.
    ///
    /// # Errors
    /// 400 for values that are out of range.
    pub fn paging(&self, state: &AppState, collection: &str) -> Result<Paging, ApiError> {
        let limits = state.entities.system_limits();
        self.paging_within(limits.list_default, limits.list_max, collection)
    }

    fn paging_within(&self, default: u32, max: u32, collection: &str) -> Result<Paging, ApiError> {
        let integer = |name: &str| -> Result<Option<i64>, ApiError> {
            let Some(value) = self.get(name) else { return Ok(None) };
            let number: Result<i32, _> = value.parse();
            let number = number.map_err(|_| ApiError::query(name, messages::not_an_integer(value, collection)))?;
            Ok(Some(number.into()))
        };
        let skip = match integer("skip")? {
            None => 0,
            Some(skip) => usize::try_from(skip)
                .map_err(|_| ApiError::query("skip", messages::skip_out_of_range(skip, collection)))?,
        };
        let limit = match integer("limit")? {
            None => default,
            // All that can be had at once.
            Some(0) => max,
            Some(limit) => u32::try_from(limit)
                .ok()
                .filter(|limit| *limit <= max)
                .ok_or_else(|| ApiError::query("limit", messages::limit_out_of_range(limit, max, collection)))?,
        };
        Ok(Paging { skip, limit: limit as usize, count: self.boolean("count", false)? })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn text<T: std::fmt::Debug>(outcome: Result<T, ApiError>) -> String {
        let error = format!("{:?}", outcome.unwrap_err());
        error.split("text: \"").nth(1).unwrap().split("\", activation").next().unwrap().to_owned()
    }

    #[test]
    fn booleans_in_queries() {
        let query = Query::parse("a=YES&b=0&c=&d&e=xyz&&f=%74rue&a=no");
        assert!(query.boolean("a", false).unwrap() && !query.boolean("b", true).unwrap());
        assert!(
            query.boolean("c", true).unwrap()
                && query.boolean("d", true).unwrap()
                && query.boolean("f", false).unwrap()
        );
        assert!(!query.boolean("absent", false).unwrap());
        assert_eq!(
            text(query.boolean("e", false)),
            r"The query parameter 'e' was malformed:\n'xyz' is not a valid Boolean value"
        );
    }

    #[test]
    fn paging_of_lists() {
        let paging = |query| Query::parse(query).paging_within(30, 200, "actions");
        assert_eq!(paging("").unwrap(), Paging { skip: 0, limit: 30, count: false });
        assert_eq!(paging("limit=0&skip=7&count=true").unwrap(), Paging { skip: 7, limit: 200, count: true });
        assert_eq!(paging("limit=200").unwrap().limit, 200);
        assert_eq!(paging("skip=7").unwrap().counted(5), 0);
        let malformed = |name: &str, reason: &str| format!(r"The query parameter '{name}' was malformed:\n{reason}");
        for (query, name, reason) in [
            ("limit=201", "limit", "The value '201' is not in the range of 0 to 200 for actions."),
            ("limit=-1", "limit", "The value '-1' is not in the range of 0 to 200 for actions."),
            ("limit=x", "limit", "The value 'x' is not an integer for actions."),
            ("limit=2147483648", "limit", "The value '2147483648' is not an integer for actions."),
            ("skip=2147483648", "skip", "The value '2147483648' is not an integer for actions."),
            ("skip=-1", "skip", "The value '-1' is not greater than or equal to 0 for actions."),
            ("skip=x", "skip", "The value 'x' is not an integer for actions."),
        ] {
            assert_eq!(text(paging(query)), malformed(name, reason), "{query}");
        }
    }

    #[test]
    fn paths_are_decoded_by_segment() {
        let decoded = |path| segments(path).map(|segments| segments.join("|")).map_err(|_| ());
        assert_eq!(decoded("/a/b%20c/d%2Fe/").as_deref(), Ok("a|b c|d/e|"));
        assert_eq!(decoded("/hi+there").as_deref(), Ok("hi+there"));
        assert_eq!(decoded("/%C3%A4").as_deref(), Ok("ä"));
        assert!(decoded("/%").is_err() && decoded("/%zz").is_err() && decoded("/%FF").is_err());
    }

    #[test]
    fn transaction_ids_are_adopted_unless_they_are_the_systems() {
        let id = |value: &str| transaction_id(&TestRequest::get().insert_header((REQUEST_ID, value)).to_http_request());
        assert_eq!(&*id("mine").0, "mine");
        assert_ne!(&*id("sid_x").0, "sid_x");
        let made = transaction_id(&TestRequest::get().to_http_request());
        assert!(made.0.len() == 32 && made.0.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn who_accepts_json() {
        let accepts = |value: &str| accepts_json(&TestRequest::get().insert_header((ACCEPT, value)).to_http_request());
        for value in
            ["*/*", "application/json", "text/html, application/*;q=0.5", "Application/JSON; charset=utf-8", ""]
        {
            assert!(accepts(value), "{value}");
        }
        assert!(!accepts("text/plain"));
        assert!(accepts_json(&TestRequest::get().to_http_request()));
    }
}
