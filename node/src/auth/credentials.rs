//! `uuid:key`, as a person sees it.

use rand::{Rng, distr::Alphanumeric};
use serde::{Deserialize, Serialize};

use super::authenticate::KEY_LENGTH;

/// `uuid:key`, what a client is configured with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Credentials {
    pub uuid: String,
    pub key: String,
}

/// The text of a name or key that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("authorization id is not a valid UUID")]
    Uuid,
    #[error("authorization key must be at least {KEY_LENGTH} characters long")]
    Short,
    #[error("authorization key must be exactly {KEY_LENGTH} characters long")]
    Long,
}

impl Credentials {
    /// A UUIDv4 and 64 random letters and digits.
    pub fn random() -> Self {
        let key = rand::rng().sample_iter(Alphanumeric).take(KEY_LENGTH).map(char::from).collect();
        Self { uuid: uuid::Uuid::new_v4().to_string(), key }
    }

    /// Reads `uuid:key`.
    ///
    /// # Errors
    /// [`CredentialsError`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let (uuid, key) = text.split_once(':').unwrap_or((text, ""));
        // Only the usual 36 characters: other spellings would name the same uuid.
        if uuid.len() != 36 || uuid::Uuid::try_parse(uuid).is_err() {
            return Err(CredentialsError::Uuid);
        }
        match key.chars().count() {
            KEY_LENGTH => Ok(Self { uuid: uuid.to_owned(), key: key.to_owned() }),
            length if length < KEY_LENGTH => Err(CredentialsError::Short),
            _ => Err(CredentialsError::Long),
        }
    }
}

impl std::fmt::Display for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uuid, self.key)
    }
}

/// Logs never get the key.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:…", self.uuid)
    }
}

impl TryFrom<String> for Credentials {
    type Error = CredentialsError;

    fn try_from(text: String) -> Result<Self, CredentialsError> {
        Self::parse(&text)
    }
}

impl From<Credentials> for String {
    fn from(credentials: Credentials) -> Self {
        credentials.to_string()
    }
}
