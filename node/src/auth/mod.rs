//! Who calls: credentials are verified here, and users and their limits are administered.
//!
//! - [`Authenticator`]: the `Authorization` header to an [`protocol::identity::Identity`].
//! - [`Directory`]: all credentials in memory, kept current by what `meta` applies.
//! - [`DataKey`]: the key file that credentials are verified and sealed with.
//! - [`Users`]: the commands of `whisp user` and `whisp limits`.

mod authenticate;
mod credentials;
mod data_key;
mod directory;
mod error;
mod failures;
mod guest;
mod limits;
mod users;

pub use self::{
    authenticate::{AuthError, Authenticator},
    credentials::{Credentials, CredentialsError},
    data_key::{DataKey, DataKeyError},
    directory::Directory,
    error::UserError,
    guest::{GUEST_KEY, create_guest, remove_guest},
    limits::LimitsUpdate,
    users::{IdentityEntry, NamespaceCredentials, NewUser, Users},
};

#[cfg(test)]
mod tests;
