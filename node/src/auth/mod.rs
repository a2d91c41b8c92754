//! Who calls: credentials are verified here, and users and their limits are administered.
//!
//! - [`Authenticator`]: the `Authorization` header to an [`protocol::identity::Identity`].
//! - [`Directory`]: all credentials and namespace limits in memory, kept current by what `meta` applies.
//! - [`DataKey`]: the key file that credentials are verified and sealed with.
//! - [`Users`]: the commands of `whisp user` and `whisp limits`.

mod authenticate;
mod data_key;
mod directory;
mod failures;
mod guest;
mod limits;
mod users;

pub use self::{
    authenticate::{AuthError, Authenticator},
    data_key::{DataKey, DataKeyError},
    directory::Directory,
    guest::{GUEST_KEY, create_guest, remove_guest},
    limits::LimitsUpdate,
    users::{Credentials, CredentialsError, IdentityEntry, NamespaceCredentials, NewUser, UserError, Users},
};

#[cfg(test)]
mod tests;
