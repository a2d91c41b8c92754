//! `[auth]`: credentials.

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Wrong credentials that one source address may send in a minute; beyond that its requests are refused unread until
    /// the minute ends, wrong credentials or right ones that are not known from before. 0: no bound. Default 120.
    pub failed_logins_per_minute: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    failed_logins_per_minute: Option<u32>,
}

impl Written {
    pub fn checked(self) -> Auth {
        Auth { failed_logins_per_minute: self.failed_logins_per_minute.unwrap_or(120) }
    }
}
