//! What may be how large: the system's bounds, a namespace's share of them, and the limits in an action's body.
//!
//! Source: apache/openwhisk `Limits.scala`, `ActionLimits.scala`, `Identity.scala` (`UserLimits`); reference
//! `rest-api.md` 7.3, 17 and 24.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    entity::ActionLimits,
    error::Malformed,
    identity::NamespaceLimits,
    json::Members,
    messages,
    size::{ByteSize, SizeText},
};

/// Bounds of one limit of actions, both inclusive, and what an action has that sets none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub standard: u32,
    pub max: u32,
}

/// The bounds that no namespace exceeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemLimits {
    /// Kinds that may be created in namespaces without a list of their own; empty: all.
    pub allowed_kinds: Vec<String>,
    pub timeout_ms: Bounds,
    pub memory_mb: Bounds,
    pub logs_mb: Bounds,
    /// Activations at once in one container.
    pub concurrency: Bounds,
    /// Of `exec`: the text of the code as sent (base64 counts), its `main` and image.
    pub exec: ByteSize,
    /// Of the parameters and, apart from them, of the annotations of an entity.
    pub parameters: ByteSize,
    /// Of the body of an invocation, and of a result.
    pub payload: ByteSize,
    /// How much of a result that is too large is kept.
    pub truncation: ByteSize,
    pub invocations_per_minute: u32,
    pub fires_per_minute: u32,
    pub concurrent_invocations: u32,
    pub sequence_length: u32,
    /// Length of a list when `limit` is not given, and at most.
    pub list_default: u32,
    pub list_max: u32,
}

impl Default for SystemLimits {
    fn default() -> Self {
        Self {
            allowed_kinds: Vec::new(),
            timeout_ms: Bounds { min: 100, standard: 60_000, max: 300_000 },
            memory_mb: Bounds { min: 128, standard: 256, max: 512 },
            logs_mb: Bounds { min: 0, standard: 10, max: 10 },
            concurrency: Bounds { min: 1, standard: 1, max: 1 },
            exec: ByteSize::mib(48),
            parameters: ByteSize::mib(1),
            payload: ByteSize::mib(1),
            truncation: ByteSize::mib(1),
            invocations_per_minute: 60,
            fires_per_minute: 60,
            concurrent_invocations: 30,
            sequence_length: 50,
            list_default: 30,
            list_max: 200,
        }
    }
}

impl SystemLimits {
    /// Limits of an action that sets none.
    pub fn standard(&self) -> ActionLimits {
        ActionLimits {
            timeout_ms: self.timeout_ms.standard,
            memory_mb: self.memory_mb.standard,
            logs_mb: self.logs_mb.standard,
            concurrency: self.concurrency.standard,
            instances: None,
        }
    }
}

/// What holds for one namespace: its own limits clamped to the system's.
///
/// As JSON it is the answer of `GET …/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveLimits {
    pub invocations_per_minute: u32,
    pub concurrent_invocations: u32,
    pub fires_per_minute: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_kinds: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_activations: Option<bool>,
    #[serde(rename = "minActionMemory")]
    pub min_action_memory_mb: u32,
    #[serde(rename = "maxActionMemory")]
    pub max_action_memory_mb: u32,
    #[serde(rename = "minActionLogs")]
    pub min_action_logs_mb: u32,
    #[serde(rename = "maxActionLogs")]
    pub max_action_logs_mb: u32,
    #[serde(rename = "minActionTimeout")]
    pub min_action_timeout_ms: u32,
    #[serde(rename = "maxActionTimeout")]
    pub max_action_timeout_ms: u32,
    pub min_action_concurrency: u32,
    pub max_action_concurrency: u32,
    /// As entered, else in bytes.
    pub max_parameter_size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_payload_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation_size: Option<String>,
    pub max_action_instances: u32,
    #[serde(skip)]
    pub sizes: EffectiveSizes,
}

/// The sizes of [`EffectiveLimits`] as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveSizes {
    pub parameters: ByteSize,
    pub payload: ByteSize,
    pub truncation: ByteSize,
}

impl EffectiveLimits {
    pub fn of(system: &SystemLimits, own: Option<&NamespaceLimits>) -> Self {
        let none = NamespaceLimits::default();
        let own = own.unwrap_or(&none);
        let at_least = |value: Option<u32>, bound: u32| value.unwrap_or(bound).max(bound);
        let at_most = |value: Option<u32>, bound: u32| value.unwrap_or(bound).min(bound);
        // A text that cannot be read limits nothing beyond the system's own limit.
        let entered = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<SizeText>().ok());
        let size = |text: &Option<String>, bound: ByteSize| entered(text).map_or(bound, SizeText::size).min(bound);
        let shown = |text: &Option<String>| entered(text).map(|text| text.to_string());
        let concurrent = own.concurrent_invocations.unwrap_or(system.concurrent_invocations);
        let parameters = size(&own.max_parameter_size, system.parameters);
        let parameters_text = entered(&own.max_parameter_size).filter(|text| text.size() == parameters);
        Self {
            invocations_per_minute: own.invocations_per_minute.unwrap_or(system.invocations_per_minute),
            concurrent_invocations: concurrent,
            fires_per_minute: own.fires_per_minute.unwrap_or(system.fires_per_minute),
            allowed_kinds: own.allowed_kinds.clone(),
            store_activations: own.store_activations,
            min_action_memory_mb: at_least(own.min_action_memory_mb, system.memory_mb.min),
            max_action_memory_mb: at_most(own.max_action_memory_mb, system.memory_mb.max),
            min_action_logs_mb: at_least(own.min_action_logs_mb, system.logs_mb.min),
            max_action_logs_mb: at_most(own.max_action_logs_mb, system.logs_mb.max),
            min_action_timeout_ms: at_least(own.min_action_timeout_ms, system.timeout_ms.min),
            max_action_timeout_ms: at_most(own.max_action_timeout_ms, system.timeout_ms.max),
            min_action_concurrency: at_least(own.min_action_concurrency, system.concurrency.min),
            max_action_concurrency: at_most(own.max_action_concurrency, system.concurrency.max),
            max_parameter_size: parameters_text.unwrap_or(parameters.into()).to_string(),
            max_payload_size: shown(&own.max_payload_size),
            truncation_size: shown(&own.truncation_size),
            max_action_instances: concurrent,
            sizes: EffectiveSizes {
                parameters,
                payload: size(&own.max_payload_size, system.payload),
                truncation: size(&own.truncation_size, system.truncation),
            },
        }
    }

    /// Holds the members of a body against the bounds.
    ///
    /// # Errors
    /// The text for the first that is out of bounds; the API puts `requirement failed: ` before it.
    pub fn check_body(&self, limits: &LimitsBody) -> Result<(), String> {
        let memory = (self.min_action_memory_mb, self.max_action_memory_mb);
        check(limits.memory_mb, memory, |mb| format!("memory size {mb} MB"), " MB")?;
        let timeout = (self.min_action_timeout_ms, self.max_action_timeout_ms);
        check(limits.timeout_ms, timeout, |ms| format!("duration {ms} milliseconds"), " milliseconds")?;
        let logs = (self.min_action_logs_mb, self.max_action_logs_mb);
        check(limits.logs_mb, logs, |mb| format!("log size {mb} MB"), " MB")?;
        let concurrency = (self.min_action_concurrency, self.max_action_concurrency);
        check(limits.concurrency, concurrency, |n| format!("concurrency {n}"), "")
    }

    /// Holds stored limits against the bounds, which may have changed since.
    ///
    /// # Errors
    /// The text for the first that is out of bounds.
    pub fn check_stored(&self, limits: &ActionLimits) -> Result<(), String> {
        // One after the other: upstream looks at them in another order than at those of a body.
        let none = LimitsBody::default();
        self.check_body(&LimitsBody { timeout_ms: Some(limits.timeout_ms.into()), ..none })?;
        self.check_body(&LimitsBody { memory_mb: Some(limits.memory_mb.into()), ..none })?;
        self.check_body(&LimitsBody { concurrency: Some(limits.concurrency.into()), ..none })?;
        self.check_body(&LimitsBody { logs_mb: Some(limits.logs_mb.into()), ..none })
    }
}

fn check(value: Option<i64>, (min, max): (u32, u32), what: impl Fn(i64) -> String, unit: &str) -> Result<(), String> {
    match value {
        Some(n) if n > max.into() => Err(format!("{} exceeds allowed threshold of {max}{unit}", what(n))),
        Some(n) if n < min.into() => Err(format!("{} below allowed threshold of {min}{unit}", what(n))),
        _ => Ok(()),
    }
}

/// The member `limits` of an action's body, in the units of the API. Not checked against any bounds yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsBody {
    pub timeout_ms: Option<i64>,
    pub memory_mb: Option<i64>,
    pub logs_mb: Option<i64>,
    pub concurrency: Option<i64>,
    pub instances: Option<i64>,
}

impl LimitsBody {
    /// # Errors
    /// The texts of reference `rest-api.md` 7.3.
    pub fn from_json(value: &RawValue) -> Result<Self, Malformed> {
        let members = Members::parse(value.get()).map_err(|error| Malformed(error.to_string()))?;
        let whole = |key: &str, name: &str, short: &str| match members.optional(key) {
            None => Ok(None),
            Some(raw) => whole_number(raw, name, short).map(Some),
        };
        let not_negative = |value: Option<i64>, text: &str| match value {
            Some(n) if n < 0 => Err(Malformed::new(text)),
            value => Ok(value),
        };
        const NEGATIVE: &str = "requirement failed: a negative size of an object is not allowed.";
        const INSTANCES: &str = "requirement failed: Action container concurrency must be greater than or equal to 0.";
        Ok(Self {
            timeout_ms: whole("timeout", "time limit", "time limit")?,
            memory_mb: not_negative(whole("memory", "memory limit", "memory limit")?, NEGATIVE)?,
            logs_mb: not_negative(whole("logs", "log limit", "log limit")?, NEGATIVE)?,
            concurrency: whole("concurrency", "intra concurrency limit", "concurrency limit")?,
            instances: not_negative(
                whole("instances", "instance concurrency limit", "instance concurrency limit")?,
                INSTANCES,
            )?,
        })
    }

    /// `base` with these members in place of its own. The bounds were checked, so nothing is cut off.
    pub fn over(&self, base: ActionLimits) -> ActionLimits {
        let or = |value: Option<i64>, stored: u32| value.map_or(stored, |n| u32::try_from(n).unwrap_or(u32::MAX));
        ActionLimits {
            timeout_ms: or(self.timeout_ms, base.timeout_ms),
            memory_mb: or(self.memory_mb, base.memory_mb),
            logs_mb: or(self.logs_mb, base.logs_mb),
            concurrency: or(self.concurrency, base.concurrency),
            instances: self.instances.map(|n| u32::try_from(n).unwrap_or(u32::MAX)).or(base.instances),
        }
    }
}

fn whole_number(raw: &RawValue, name: &str, short: &str) -> Result<i64, Malformed> {
    let number: serde_json::Number =
        serde_json::from_str(raw.get()).map_err(|_| Malformed(format!("{short} malformed")))?;
    if let Some(n) = number.as_i64() {
        return Ok(n);
    }
    match number.as_f64() {
        // Beyond 64 bits every number is out of bounds, whichever it is: the cast saturates.
        Some(n) if n.fract() == 0.0 => Ok(n as i64),
        _ => Err(Malformed(format!("requirement failed: {name} must be whole number"))),
    }
}

/// The limits of an action as JSON shows them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LimitsDocument {
    timeout: u32,
    memory: u32,
    logs: u32,
    concurrency: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<u32>,
}

impl From<&ActionLimits> for LimitsDocument {
    fn from(limits: &ActionLimits) -> Self {
        Self {
            timeout: limits.timeout_ms,
            memory: limits.memory_mb,
            logs: limits.logs_mb,
            concurrency: limits.concurrency,
            instances: limits.instances,
        }
    }
}

/// Looks at the namespace's concurrency: an action may not ask for more containers than that.
///
/// # Errors
/// The text to answer.
pub fn check_instances(limits: &ActionLimits, effective: &EffectiveLimits) -> Result<(), String> {
    match limits.instances {
        Some(n) if n > effective.concurrent_invocations => {
            Err(messages::instances_exceed_concurrency(effective.concurrent_invocations))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
