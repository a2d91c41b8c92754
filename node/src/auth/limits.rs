//! The commands of `whisp limits`: a namespace's share of the system's limits.
//!
//! Source: apache/openwhisk `tools/admin/wskadmin`, `LimitsCommand.scala`; reference `rest-api.md` 17 and 21.2.

use protocol::{
    command::{Condition, MetaKey, MetaOp, MetaTxn},
    identity::NamespaceLimits,
    size::SizeText,
};
use serde::{Deserialize, Serialize};

use super::{
    UserError,
    users::{Users, namespace_name, put, read},
};

/// Limits of a namespace under the names that OpenWhisk gives them. In a change: `None` leaves a limit as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocations_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fires_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_invocations: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_kinds: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_activations: Option<bool>,
    /// Megabytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_action_memory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_action_memory: Option<u32>,
    /// Megabytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_action_logs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_action_logs: Option<u32>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_action_timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_action_timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_action_concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_action_concurrency: Option<u32>,
    /// Such as `1 MB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parameter_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_payload_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation_size: Option<String>,
}

impl Users {
    /// The limits that `namespace` has of its own.
    ///
    /// # Errors
    /// [`UserError::NoLimits`] if there are none; so for all commands of limits.
    pub async fn limits(&self, namespace: &str) -> Result<LimitsUpdate, UserError> {
        let key = MetaKey::Limits(namespace_name(namespace)?);
        let stored = self.stored(&key).await?.ok_or(UserError::NoLimits)?;
        Ok(read::<NamespaceLimits>("limits", &stored.value)?.into())
    }

    /// Sets the limits that `update` names and keeps the others. The namespace need not exist yet.
    pub async fn set_limits(&self, namespace: &str, update: &LimitsUpdate) -> Result<(), UserError> {
        let key = MetaKey::Limits(namespace_name(namespace)?);
        update.check()?;
        self.change(async || {
            let (old, condition) = match self.stored(&key).await? {
                None => (NamespaceLimits::default(), Condition::Absent(key.clone())),
                Some(stored) => (read("limits", &stored.value)?, Condition::At(key.clone(), stored.revision)),
            };
            let limits = update.over(old);
            LimitsUpdate::from(limits.clone()).check()?;
            Ok((MetaTxn { conditions: vec![condition], ops: vec![put(key.clone(), &limits)] }, ()))
        })
        .await
    }

    /// Gives `namespace` the system's limits again.
    pub async fn delete_limits(&self, namespace: &str) -> Result<(), UserError> {
        let key = MetaKey::Limits(namespace_name(namespace)?);
        self.change(async || {
            let stored = self.stored(&key).await?.ok_or(UserError::NoLimits)?;
            let conditions = vec![Condition::At(key.clone(), stored.revision)];
            Ok((MetaTxn { conditions, ops: vec![MetaOp::Delete(key.clone())] }, ()))
        })
        .await
    }
}

impl LimitsUpdate {
    fn check(&self) -> Result<(), UserError> {
        let pairs = [
            ("ActionMemory", self.min_action_memory, self.max_action_memory),
            ("ActionLogs", self.min_action_logs, self.max_action_logs),
            ("ActionTimeout", self.min_action_timeout, self.max_action_timeout),
            ("ActionConcurrency", self.min_action_concurrency, self.max_action_concurrency),
        ];
        for (name, min, max) in pairs {
            if let (Some(min), Some(max)) = (min, max)
                && min > max
            {
                return Err(UserError::BadLimits(format!("min{name} {min} is more than max{name} {max}")));
            }
        }
        let sizes = [
            ("maxParameterSize", &self.max_parameter_size),
            ("maxPayloadSize", &self.max_payload_size),
            ("truncationSize", &self.truncation_size),
        ];
        for (name, size) in sizes {
            if let Some(Err(error)) = size.as_ref().map(|size| size.parse::<SizeText>()) {
                return Err(UserError::BadLimits(format!("{name}: {error}")));
            }
        }
        Ok(())
    }

    fn over(&self, old: NamespaceLimits) -> NamespaceLimits {
        let new = self.clone();
        NamespaceLimits {
            invocations_per_minute: new.invocations_per_minute.or(old.invocations_per_minute),
            concurrent_invocations: new.concurrent_invocations.or(old.concurrent_invocations),
            fires_per_minute: new.fires_per_minute.or(old.fires_per_minute),
            allowed_kinds: new.allowed_kinds.or(old.allowed_kinds),
            store_activations: new.store_activations.or(old.store_activations),
            min_action_memory_mb: new.min_action_memory.or(old.min_action_memory_mb),
            max_action_memory_mb: new.max_action_memory.or(old.max_action_memory_mb),
            min_action_logs_mb: new.min_action_logs.or(old.min_action_logs_mb),
            max_action_logs_mb: new.max_action_logs.or(old.max_action_logs_mb),
            min_action_timeout_ms: new.min_action_timeout.or(old.min_action_timeout_ms),
            max_action_timeout_ms: new.max_action_timeout.or(old.max_action_timeout_ms),
            min_action_concurrency: new.min_action_concurrency.or(old.min_action_concurrency),
            max_action_concurrency: new.max_action_concurrency.or(old.max_action_concurrency),
            max_parameter_size: new.max_parameter_size.or(old.max_parameter_size),
            max_payload_size: new.max_payload_size.or(old.max_payload_size),
            truncation_size: new.truncation_size.or(old.truncation_size),
        }
    }
}

impl From<NamespaceLimits> for LimitsUpdate {
    fn from(limits: NamespaceLimits) -> Self {
        Self {
            invocations_per_minute: limits.invocations_per_minute,
            fires_per_minute: limits.fires_per_minute,
            concurrent_invocations: limits.concurrent_invocations,
            allowed_kinds: limits.allowed_kinds,
            store_activations: limits.store_activations,
            min_action_memory: limits.min_action_memory_mb,
            max_action_memory: limits.max_action_memory_mb,
            min_action_logs: limits.min_action_logs_mb,
            max_action_logs: limits.max_action_logs_mb,
            min_action_timeout: limits.min_action_timeout_ms,
            max_action_timeout: limits.max_action_timeout_ms,
            min_action_concurrency: limits.min_action_concurrency,
            max_action_concurrency: limits.max_action_concurrency,
            max_parameter_size: limits.max_parameter_size,
            max_payload_size: limits.max_payload_size,
            truncation_size: limits.truncation_size,
        }
    }
}

/// One `key = value` line per limit, values as Python writes them.
impl std::fmt::Display for LimitsUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |name, value: Option<u32>| (name, value.map(|value| value.to_string()));
        let quoted = |text: &String| format!("'{text}'");
        let kinds = self.allowed_kinds.as_ref();
        let lines = [
            number("invocationsPerMinute", self.invocations_per_minute),
            number("firesPerMinute", self.fires_per_minute),
            number("concurrentInvocations", self.concurrent_invocations),
            (
                "allowedKinds",
                kinds.map(|kinds| format!("[{}]", kinds.iter().map(quoted).collect::<Vec<_>>().join(", "))),
            ),
            ("storeActivations", self.store_activations.map(|store| if store { "True" } else { "False" }.to_owned())),
            number("minActionMemory", self.min_action_memory),
            number("maxActionMemory", self.max_action_memory),
            number("minActionLogs", self.min_action_logs),
            number("maxActionLogs", self.max_action_logs),
            number("minActionTimeout", self.min_action_timeout),
            number("maxActionTimeout", self.max_action_timeout),
            number("minActionConcurrency", self.min_action_concurrency),
            number("maxActionConcurrency", self.max_action_concurrency),
            ("maxParameterSize", self.max_parameter_size.clone()),
            ("maxPayloadSize", self.max_payload_size.clone()),
            ("truncationSize", self.truncation_size.clone()),
        ];
        let set = lines.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name} = {value}")));
        f.write_str(&set.collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let old = NamespaceLimits { fires_per_minute: Some(1), max_action_memory_mb: Some(256), ..Default::default() };
        let update: LimitsUpdate = serde_json::from_str(r#"{"maxActionMemory":128,"storeActivations":false}"#).unwrap();
        let expected = NamespaceLimits {
            fires_per_minute: Some(1),
            max_action_memory_mb: Some(128),
            store_activations: Some(false),
            ..Default::default()
        };
        assert_eq!(update.over(old), expected);
    }

    #[test]
    fn every_limit_survives_both_forms_and_is_shown() {
        let all = r#"{"invocationsPerMinute":1,"firesPerMinute":2,"concurrentInvocations":3,
            "allowedKinds":["nodejs:20","blackbox"],"storeActivations":false,"minActionMemory":4,"maxActionMemory":5,
            "minActionLogs":6,"maxActionLogs":7,"minActionTimeout":8,"maxActionTimeout":9,"minActionConcurrency":10,
            "maxActionConcurrency":11,"maxParameterSize":"1 MB","maxPayloadSize":"2 MB","truncationSize":"3 MB"}"#;
        let update: LimitsUpdate = serde_json::from_str(all).unwrap();
        assert_eq!(LimitsUpdate::from(update.over(NamespaceLimits::default())), update);
        assert_eq!(serde_json::to_value(&update).unwrap(), serde_json::from_str::<serde_json::Value>(all).unwrap());
        let expected = "invocationsPerMinute = 1\nfiresPerMinute = 2\nconcurrentInvocations = 3\n\
            allowedKinds = ['nodejs:20', 'blackbox']\nstoreActivations = False\nminActionMemory = 4\n\
            maxActionMemory = 5\nminActionLogs = 6\nmaxActionLogs = 7\nminActionTimeout = 8\nmaxActionTimeout = 9\n\
            minActionConcurrency = 10\nmaxActionConcurrency = 11\nmaxParameterSize = 1 MB\nmaxPayloadSize = 2 MB\n\
            truncationSize = 3 MB";
        assert_eq!(update.to_string(), expected);
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let refused = |json: &str| serde_json::from_str::<LimitsUpdate>(json).unwrap().check().unwrap_err().to_string();
        assert_eq!(
            refused(r#"{"minActionMemory":256,"maxActionMemory":128}"#),
            "minActionMemory 256 is more than maxActionMemory 128"
        );
        assert!(refused(r#"{"maxPayloadSize":"1 chair"}"#).starts_with("maxPayloadSize: "));
        assert!(serde_json::from_str::<LimitsUpdate>(r#"{"nonsense":1}"#).is_err());
    }
}
