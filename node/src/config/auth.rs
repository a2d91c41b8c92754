//! `[auth]`: credentials.

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Failed logins that one source address may have in a minute (IPv6: one /64 network). Beyond that its failures are
    /// answered with 429 instead of 401, and a uuid that failed so often from there is refused until the minute ends,
    /// even with the right key. Callers with other, right credentials behind the same address are not affected.
    /// 0: no bound. Default 120.
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
