//! The user of `--dev`.

use super::{Credentials, NewUser, UserError, Users};

/// OpenWhisk's well-known key of the subject `guest`: everybody has it.
pub const GUEST_KEY: &str =
    "23bc46b1-71f6-4ed5-8c54-816aa4f8c502:123zO3xZCLrMN6v2BKK1dXYFpXlPkccOFqm12CdAsMgRU4VrNZ9lyGVCGuMDGIwP";

/// Creates the subject `guest` with [`GUEST_KEY`], or gives it that key again.
///
/// # Errors
/// [`UserError`] if the write fails.
pub async fn create_guest(users: &Users) -> Result<(), UserError> {
    let credentials = Credentials::parse(GUEST_KEY).expect("the constant is well-formed");
    match users.get("guest", None).await {
        Ok(found) if found.credentials == credentials => return Ok(()),
        Ok(_) | Err(UserError::NoSubject(_) | UserError::NamespaceNotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let guest = NewUser { subject: "guest".to_owned(), namespace: None, credentials: Some(credentials), revoke: true };
    users.create(&guest).await.map(drop)
}

/// Takes [`GUEST_KEY`] away, should an earlier `--dev` have left it behind.
///
/// # Errors
/// [`UserError`] if the write fails.
pub async fn remove_guest(users: &Users) -> Result<(), UserError> {
    let credentials = Credentials::parse(GUEST_KEY).expect("the constant is well-formed");
    match users.whois(&credentials).await {
        Err(UserError::NotRecognized) => Ok(()),
        Err(error) => Err(error),
        Ok(found) => {
            tracing::warn!("the guest key of an earlier start with --dev is removed");
            users.delete(&found.subject, Some(found.namespace.as_str())).await
        }
    }
}
