//! The `Authorization` header to an identity.

use std::{net::IpAddr, sync::Arc};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use protocol::{
    error::ErrorCode,
    identity::Identity,
    messages::{self, default_text},
};
use subtle::ConstantTimeEq;

use super::{DataKey, Directory, failures::FailedLogins};

/// Length of every key, in characters.
pub(super) const KEY_LENGTH: usize = 64;
/// Longer headers are not decoded; a credential has 101 characters.
const MAX_HEADER: usize = 1024;

/// Base64 with or without padding: clients do both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Verifies credentials.
///
/// One look-up in memory and one HMAC (well below a microsecond): verified headers need no cache of their own, which
/// would hold secrets and have to be invalidated.
pub struct Authenticator {
    directory: Arc<Directory>,
    key: DataKey,
    failures: FailedLogins,
    /// Compared with what an unknown uuid sends, so that it takes as long as a known one.
    decoy: [u8; 32],
}

/// Why nobody is logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// No header, or not of the scheme `Basic`.
    NoCredentials,
    /// Wrong, malformed, unknown or blocked: the caller is not told which.
    Invalid,
    /// Too many failures from this address.
    TooManyFailures,
    /// The users cannot be read.
    Unavailable,
}

impl AuthError {
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NoCredentials | Self::Invalid => ErrorCode::Unauthenticated,
            Self::TooManyFailures => ErrorCode::TooManyRequests,
            Self::Unavailable => ErrorCode::Unavailable,
        }
    }

    /// The text for the caller.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoCredentials => messages::NO_CREDENTIALS,
            Self::Invalid => messages::INVALID_CREDENTIALS,
            Self::TooManyFailures | Self::Unavailable => default_text(self.code()),
        }
    }
}

impl std::fmt::Display for AuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for AuthError {}

impl Authenticator {
    /// `failed_logins_per_minute`: of one source address; 0: no bound.
    pub fn new(directory: Arc<Directory>, key: DataKey, failed_logins_per_minute: u32) -> Self {
        let decoy = key.mac("");
        Self { directory, key, failures: FailedLogins::new(failed_logins_per_minute), decoy }
    }

    /// Verifies the value of an `Authorization` header that came from `source` at the wall-clock time `now_ms`.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn authenticate(&self, header: Option<&[u8]>, source: IpAddr, now_ms: u64) -> Result<Arc<Identity>, AuthError> {
        let encoded = header.and_then(basic).ok_or(AuthError::NoCredentials)?;
        let Some((uuid, key)) = decode(encoded) else {
            return Err(self.refuse(source, "", now_ms));
        };
        if self.failures.refuses(source, &uuid, now_ms) {
            return Err(AuthError::TooManyFailures);
        }
        let credential = self.directory.credential(&uuid).map_err(|_| AuthError::Unavailable)?;
        let expected = credential.as_ref().map_or(&self.decoy, |credential| &credential.mac);
        let matches = bool::from(self.key.mac(&key).ct_eq(expected));
        match credential {
            Some(credential) if matches && key.chars().count() == KEY_LENGTH => Ok(credential.identity),
            _ => Err(self.refuse(source, &uuid, now_ms)),
        }
    }

    /// `uuid:key` of `uuid`, for actions that are given their caller's key. `None`: deleted or blocked since.
    pub fn credentials_of(&self, uuid: &str) -> Option<String> {
        let credential = self.directory.credential(uuid).ok().flatten()?;
        let key = self.key.unseal(uuid, &credential.sealed);
        if key.is_none() {
            tracing::error!(uuid, "a stored key was sealed with another data key");
        }
        key.map(|key| format!("{uuid}:{key}"))
    }

    fn refuse(&self, source: IpAddr, uuid: &str, now_ms: u64) -> AuthError {
        if self.failures.failed(source, uuid, now_ms) { AuthError::TooManyFailures } else { AuthError::Invalid }
    }
}

/// What follows the scheme `Basic`.
fn basic(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then_some(rest.trim_ascii())
}

fn decode(encoded: &[u8]) -> Option<(String, String)> {
    if encoded.len() > MAX_HEADER {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    let (uuid, key) = text.split_once(':')?;
    Some((uuid.to_owned(), key.to_owned()))
}
