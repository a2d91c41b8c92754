use super::*;

fn body(json: &str) -> Result<LimitsBody, String> {
    LimitsBody::from_json(serde_json::from_str(json).unwrap()).map_err(|error| error.0)
}

#[test]
fn the_default_is_what_a_suite_compares() {
    let limits = SystemLimits::default().standard();
    assert_eq!(limits, ActionLimits::default());
    assert_eq!(
        serde_json::to_string(&LimitsDocument::from(&limits)).unwrap(),
        r#"{"timeout":60000,"memory":256,"logs":10,"concurrency":1}"#
    );
    let more = body(r#"{"instances":3,"memory":128.0,"timeout":null,"x":1}"#).unwrap().over(limits);
    assert_eq!(
        serde_json::to_string(&LimitsDocument::from(&more)).unwrap(),
        r#"{"timeout":60000,"memory":128,"logs":10,"concurrency":1,"instances":3}"#
    );
}

#[test]
fn what_cannot_be_read() {
    for (json, text) in [
        (r#"{"timeout":1.5}"#, "requirement failed: time limit must be whole number"),
        (r#"{"timeout":"1"}"#, "time limit malformed"),
        (r#"{"memory":1.5}"#, "requirement failed: memory limit must be whole number"),
        (r#"{"memory":[]}"#, "memory limit malformed"),
        (r#"{"memory":-1}"#, "requirement failed: a negative size of an object is not allowed."),
        (r#"{"logs":0.1}"#, "requirement failed: log limit must be whole number"),
        (r#"{"logs":true}"#, "log limit malformed"),
        (r#"{"logs":-2}"#, "requirement failed: a negative size of an object is not allowed."),
        (r#"{"concurrency":1.1}"#, "requirement failed: intra concurrency limit must be whole number"),
        (r#"{"concurrency":"a"}"#, "concurrency limit malformed"),
        (r#"{"instances":1.1}"#, "requirement failed: instance concurrency limit must be whole number"),
        (r#"{"instances":{}}"#, "instance concurrency limit malformed"),
        (r#"{"instances":-1}"#, "requirement failed: Action container concurrency must be greater than or equal to 0."),
        ("[]", "JSON object expected"),
    ] {
        assert_eq!(body(json), Err(text.to_owned()), "{json}");
    }
}

#[test]
fn what_is_out_of_bounds() {
    let effective = EffectiveLimits::of(&SystemLimits::default(), None);
    for (json, text) in [
        (r#"{"memory":513}"#, "memory size 513 MB exceeds allowed threshold of 512 MB"),
        (r#"{"memory":127}"#, "memory size 127 MB below allowed threshold of 128 MB"),
        (r#"{"timeout":300001}"#, "duration 300001 milliseconds exceeds allowed threshold of 300000 milliseconds"),
        (r#"{"timeout":99}"#, "duration 99 milliseconds below allowed threshold of 100 milliseconds"),
        (r#"{"timeout":-1}"#, "duration -1 milliseconds below allowed threshold of 100 milliseconds"),
        (r#"{"logs":11}"#, "log size 11 MB exceeds allowed threshold of 10 MB"),
        (r#"{"concurrency":2}"#, "concurrency 2 exceeds allowed threshold of 1"),
        (r#"{"concurrency":0}"#, "concurrency 0 below allowed threshold of 1"),
        (r#"{"logs":11,"timeout":1,"memory":1}"#, "memory size 1 MB below allowed threshold of 128 MB"),
    ] {
        assert_eq!(effective.check_body(&body(json).unwrap()), Err(text.to_owned()), "{json}");
    }
    assert_eq!(effective.check_stored(&ActionLimits::default()), Ok(()));
    let mut stored = ActionLimits { timeout_ms: 1, memory_mb: 1, logs_mb: 11, concurrency: 2, instances: None };
    let mut told = Vec::new();
    while let Err(text) = effective.check_stored(&stored) {
        let right = ActionLimits::default();
        match text.split(' ').next() {
            Some("duration") => stored.timeout_ms = right.timeout_ms,
            Some("memory") => stored.memory_mb = right.memory_mb,
            Some("concurrency") => stored.concurrency = right.concurrency,
            _ => stored.logs_mb = right.logs_mb,
        }
        told.push(text);
    }
    assert_eq!(
        told,
        [
            "duration 1 milliseconds below allowed threshold of 100 milliseconds",
            "memory size 1 MB below allowed threshold of 128 MB",
            "concurrency 2 exceeds allowed threshold of 1",
            "log size 11 MB exceeds allowed threshold of 10 MB",
        ]
    );
    for json in [r#"{"memory":512,"timeout":100,"logs":0,"concurrency":1}"#, r#"{"memory":128,"timeout":300000}"#] {
        assert_eq!(effective.check_body(&body(json).unwrap()), Ok(()), "{json}");
    }
    assert!(effective.check_body(&body(r#"{"timeout":1e99}"#).unwrap()).is_err());
}

#[test]
fn a_namespace_stays_within_the_systems_bounds() {
    let own = NamespaceLimits {
        max_action_memory_mb: Some(4096),
        min_action_memory_mb: Some(1),
        max_action_logs_mb: Some(5),
        concurrent_invocations: Some(2),
        max_parameter_size: Some("1k".into()),
        max_payload_size: Some("2MB".into()),
        ..NamespaceLimits::default()
    };
    let effective = EffectiveLimits::of(&SystemLimits::default(), Some(&own));
    assert_eq!((effective.min_action_memory_mb, effective.max_action_memory_mb), (128, 512));
    assert_eq!(effective.sizes.parameters, ByteSize::kib(1));
    assert_eq!(effective.sizes.payload, ByteSize::mib(1));
    assert_eq!(
        serde_json::to_string(&effective).unwrap(),
        concat!(
            r#"{"invocationsPerMinute":60,"concurrentInvocations":2,"firesPerMinute":60,"minActionMemory":128,"#,
            r#""maxActionMemory":512,"minActionLogs":0,"maxActionLogs":5,"minActionTimeout":100,"#,
            r#""maxActionTimeout":300000,"minActionConcurrency":1,"maxActionConcurrency":1,"#,
            r#""maxParameterSize":"1 KB","maxPayloadSize":"2 MB","maxActionInstances":2}"#
        )
    );
    let instances = body(r#"{"instances":3}"#).unwrap().over(ActionLimits::default());
    assert_eq!(
        check_instances(&instances, &effective).unwrap_err(),
        "Max action instance concurrency must not exceed your namespace concurrency of 2."
    );
    let plain = EffectiveLimits::of(&SystemLimits::default(), None);
    assert_eq!(plain.max_parameter_size, "1048576 B");
}
