//! `[http]`: the API's listener.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;

use super::{ConfigError, HumanDuration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where the API listens. Port 0: a free one, for tests. Default `127.0.0.1:3233`, the port of OpenWhisk's
    /// standalone.
    pub api_addr: SocketAddr,
    /// Threads that serve requests. Default: the number of cores.
    pub workers: usize,
    /// Connections that each worker keeps open; more wait to be accepted. Default 10,000.
    pub connections_per_worker: usize,
    /// How long an idle connection stays open. Default 70 s.
    pub keep_alive: Duration,
    /// How long a client may take to send the head of a request, before it is answered with 408. Default 10 s.
    pub head_timeout: Duration,
    /// How long a client may take to send the body of a request, and to take any more of an answer. Default 60 s.
    pub body_timeout: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub api_addr: Option<SocketAddr>,
    workers: Option<usize>,
    connections_per_worker: Option<usize>,
    keep_alive: Option<HumanDuration>,
    head_timeout: Option<HumanDuration>,
    body_timeout: Option<HumanDuration>,
}

impl Written {
    pub fn checked(self) -> Result<Http, ConfigError> {
        let http = Http {
            api_addr: self.api_addr.unwrap_or((Ipv4Addr::LOCALHOST, 3233).into()),
            workers: self.workers.unwrap_or_else(cores),
            connections_per_worker: self.connections_per_worker.unwrap_or(10_000),
            keep_alive: self.keep_alive.map_or(Duration::from_secs(70), Duration::from),
            head_timeout: self.head_timeout.map_or(Duration::from_secs(10), Duration::from),
            body_timeout: self.body_timeout.map_or(Duration::from_secs(60), Duration::from),
        };
        if !(1..=512).contains(&http.workers) {
            return Err(ConfigError::invalid("http.workers", "must be 1 to 512"));
        }
        if http.connections_per_worker == 0 {
            return Err(ConfigError::invalid("http.connections_per_worker", "must be at least 1"));
        }
        for (key, time) in [("http.head_timeout", http.head_timeout), ("http.body_timeout", http.body_timeout)] {
            if time.is_zero() {
                return Err(ConfigError::invalid(key, "must not be 0: nobody is that fast"));
            }
        }
        Ok(http)
    }
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
