//! What an action is called with: stored parameters below the payload, merged by key on the JSON text.

use std::borrow::Cow;

use protocol::{
    RawJson,
    entity::Parameter,
    json::{Members, ObjectError, ObjectWriter, compact},
    messages,
};

use super::{
    encryption::{Keyring, UnlockError},
    resolved::ResolvedAction,
};

/// The arguments of one invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// A JSON object, for `/run`.
    pub run: RawJson,
    /// Parameters for the environment of `/init`: name and text.
    pub init_env: Vec<(String, String)>,
}

/// Why an action cannot be called so.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentsError {
    #[error(transparent)]
    Malformed(#[from] ObjectError),
    #[error("{}", messages::FINAL_PARAMETERS)]
    Final,
}

impl ResolvedAction {
    /// Merges `payload`, the body of the invocation, over the action's parameters. Values are copied, never parsed.
    ///
    /// Parameters marked `init` go to the environment and never to the run; a payload member of that name replaces the
    /// value and goes there too. Encrypted ones that the payload does not replace are left out: see
    /// [`ResolvedAction::run_arguments`].
    ///
    /// # Errors
    /// [`ArgumentsError`]
    ///
    /// Source: apache/openwhisk `PrimitiveActions.scala`, `Actions.scala` (`isConfigurable`).
    pub fn arguments(&self, payload: &str) -> Result<Arguments, ArgumentsError> {
        let members = Members::parse(payload)?;
        let parameters = &self.parameters.0;
        if parameters.is_empty() {
            return Ok(Arguments { run: members.to_json(payload), init_env: Vec::new() });
        }

        // By place in `parameters`: the payload's value for it. The last of equal keys stands.
        let mut given: Vec<Option<&str>> = vec![None; parameters.len()];
        let mut withheld = false;
        for (key, value) in members.iter() {
            if let Some(place) = self.places.get(key) {
                if self.is_final && !parameters[*place].value.is_null() {
                    return Err(ArgumentsError::Final);
                }
                given[*place] = Some(value.get());
                withheld |= parameters[*place].init;
            }
        }

        let mut run = ObjectWriter::new(String::with_capacity(payload.len() + 256));
        let mut init_env = Vec::new();
        for (parameter, given) in parameters.iter().zip(&given) {
            match given {
                None if parameter.encryption.is_some() => {}
                _ if parameter.init => {
                    let value = given.unwrap_or(parameter.value.as_str());
                    init_env.push((parameter.key.to_string(), environment_text(value)));
                }
                None => run.raw(&parameter.key, parameter.value.as_str()),
                Some(_) => {}
            }
        }
        if withheld {
            let is_init = |key: &str| self.places.get(key).is_some_and(|place| parameters[*place].init);
            members.iter().filter(|(key, _)| !is_init(key)).for_each(|(key, value)| run.raw(key, value.get()));
        } else {
            run.members_of(payload);
        }
        Ok(Arguments { run: run.into_json(), init_env })
    }

    /// `arguments`, as [`ResolvedAction::arguments`] made them, with the encrypted parameters that the payload did not
    /// replace, in the clear. To be called by who runs the action, and not to be kept.
    ///
    /// # Errors
    /// [`UnlockError`]
    pub fn run_arguments<'a>(&self, keyring: &Keyring, arguments: &'a str) -> Result<Cow<'a, str>, UnlockError> {
        if !self.has_locked {
            return Ok(Cow::Borrowed(arguments));
        }
        // What is no object, such as the array that a step of a sequence answered, stands for all arguments.
        let Ok(members) = Members::parse(arguments) else { return Ok(Cow::Borrowed(arguments)) };
        let mut all = ObjectWriter::new(String::with_capacity(arguments.len() + 256));
        for parameter in self.locked().filter(|parameter| !parameter.init && members.get(&parameter.key).is_none()) {
            all.raw(&parameter.key, keyring.unlock(parameter)?.as_str());
        }
        all.members_of(arguments);
        Ok(Cow::Owned(all.finish()))
    }

    /// `env`, as [`ResolvedAction::arguments`] made it, with the encrypted init parameters that the payload did not replace.
    ///
    /// # Errors
    /// [`UnlockError`]
    pub fn run_env(&self, keyring: &Keyring, env: &[(String, String)]) -> Result<Vec<(String, String)>, UnlockError> {
        let mut all = env.to_vec();
        for parameter in self.locked().filter(|parameter| parameter.init) {
            if !env.iter().any(|(name, _)| *name == parameter.key) {
                all.push((parameter.key.to_string(), environment_text(keyring.unlock(parameter)?.as_str())));
            }
        }
        Ok(all)
    }

    fn locked(&self) -> impl Iterator<Item = &Parameter> {
        let parameters = self.has_locked.then_some(&self.parameters.0);
        parameters.into_iter().flatten().filter(|parameter| parameter.encryption.is_some())
    }
}

/// A value as an environment variable: a string is itself, `null` is empty, anything else its compact JSON.
fn environment_text(json: &str) -> String {
    match json.trim() {
        "null" => String::new(),
        text if text.starts_with('"') => {
            // It was checked to be JSON; should it not be, the text as it came is the best there is.
            serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())
        }
        text => compact(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{
        EntityName, EntityPath, Revision,
        entity::{Action, ActionLimits, Exec, Parameters, SemVer},
    };
    use serde_json::{Value, json};

    use super::*;

    fn resolved(parameters: &str, annotations: &str) -> ResolvedAction {
        let read = |json: &str| Parameters::from_json(serde_json::from_str(json).unwrap()).unwrap();
        let action = Action {
            path: EntityPath::namespace(EntityName::new("guest").unwrap()),
            name: EntityName::new("a").unwrap(),
            version: SemVer::FIRST,
            publish: false,
            exec: Exec::Blackbox { image: "i".into(), main: None, code: None },
            parameters: read(parameters),
            annotations: read(annotations),
            limits: ActionLimits::default(),
            updated_ms: 0,
        };
        ResolvedAction::new(action, Revision(1), None, None, None)
    }

    #[test]
    fn the_payload_lies_over_the_parameters() {
        let action = resolved(r#"[{"key":"a","value":{"deep":1}},{"key":"b","value":null}]"#, "[]");
        assert_eq!(action.arguments("{}").unwrap().run.as_str(), r#"{"a":{"deep":1},"b":null}"#);
        assert_eq!(action.arguments(r#"{ "a":[ 2 ]}"#).unwrap().run.as_str(), r#"{"b":null,"a":[ 2 ]}"#);
        let untouched = r#"{ "x" : 1.0 }"#;
        assert_eq!(resolved("[]", "[]").arguments(untouched).unwrap().run.as_str(), untouched);
    }

    #[test]
    fn init_parameters_never_reach_the_run() {
        let action = resolved(
            r#"[{"key":"s","value":"t\"x","init":true},{"key":"n","value":null,"init":true},
                {"key":"o","value":{"a": [1]},"init":true},{"key":"i","value":7,"init":true},{"key":"r","value":1}]"#,
            "[]",
        );
        let env = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let plain = action.arguments(r#"{"x":1}"#).unwrap();
        assert_eq!(plain.run.as_str(), r#"{"r":1,"x":1}"#);
        assert_eq!(plain.init_env, env(&[("s", "t\"x"), ("n", ""), ("o", r#"{"a":[1]}"#), ("i", "7")]));
        let replaced = action.arguments(r#"{"s":true,"x":1,"i":"u"}"#).unwrap();
        assert_eq!(replaced.run.as_str(), r#"{"r":1,"x":1}"#);
        assert_eq!(replaced.init_env, env(&[("s", "true"), ("n", ""), ("o", r#"{"a":[1]}"#), ("i", "u")]));
    }

    #[test]
    fn final_protects_only_values_and_only_if_it_is_true() {
        let parameters = r#"[{"key":"a","value":1},{"key":"b","value":null}]"#;
        let protected = resolved(parameters, r#"[{"key":"final","value":true}]"#);
        assert!(matches!(protected.arguments(r#"{"a":1}"#), Err(ArgumentsError::Final)));
        assert!(protected.arguments(r#"{"b":1,"c":2}"#).is_ok());
        let text = resolved(parameters, r#"[{"key":"final","value":"true"}]"#);
        assert!(text.arguments(r#"{"a":1}"#).is_ok());
    }

    #[test]
    fn encrypted_parameters_join_when_the_action_runs_unless_the_payload_has_them() {
        let keys = [("aes-128".to_owned(), "BwcHBwcHBwcHBwcHBwcHBw==".to_owned())].into();
        let keyring = Keyring::new(Some("aes-128"), &keys).unwrap();
        let mut action = resolved("[]", "[]").action;
        let clear = r#"[{"key":"a","value":{"x":1}},{"key":"b","value":2},{"key":"i","value":[3],"init":true}]"#;
        action.parameters = keyring.lock(Parameters::from_json(serde_json::from_str(clear).unwrap()).unwrap());
        let action = ResolvedAction::new(action, Revision(1), None, None, None);
        let run = |payload: &str| {
            let Arguments { run, init_env } = action.arguments(payload).unwrap();
            let env = action.run_env(&keyring, &init_env).unwrap();
            let arguments = action.run_arguments(&keyring, run.as_str()).unwrap().into_owned();
            (run.as_str().to_owned(), arguments, env)
        };
        let env = |text: &str| vec![("i".to_owned(), text.to_owned())];
        assert_eq!(run(r#"{"c":9}"#), (r#"{"c":9}"#.into(), r#"{"a":{"x":1},"b":2,"c":9}"#.into(), env("[3]")));
        assert_eq!(run(r#"{"a":7}"#), (r#"{"a":7}"#.into(), r#"{"b":2,"a":7}"#.into(), env("[3]")));
        assert_eq!(run(r#"{"i":"given"}"#), ("{}".into(), r#"{"a":{"x":1},"b":2}"#.into(), env("given")));
        assert_eq!(action.run_arguments(&keyring, "[1]").unwrap(), "[1]", "of a sequence's step");

        let without = Keyring::default();
        let told = "The parameter 'a' is encrypted with the key 'aes-128', which is not configured.";
        assert_eq!(action.run_arguments(&without, "{}").unwrap_err().to_string(), told);
        assert!(action.run_arguments(&without, r#"{"a":1,"b":2}"#).is_ok(), "what is replaced need not be read");
        assert!(action.run_env(&without, &[]).is_err());
    }

    #[test]
    fn only_objects_are_payloads() {
        for payload in ["[]", "\"a\"", "1", "null", "", "{"] {
            assert!(matches!(resolved("[]", "[]").arguments(payload), Err(ArgumentsError::Malformed(_))), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn merging_texts_is_merging_maps(stored in prop::collection::hash_map("[a-f\"]{1,2}", any::<(i8, bool)>(), 0..6),
                                         payload in prop::collection::hash_map("[a-f\"]{1,2}", any::<i8>(), 0..6)) {
            let entries: Vec<Value> = stored
                .iter()
                .map(|(key, (value, init))| json!({ "key": key, "value": value, "init": init }))
                .collect();
            let action = resolved(&serde_json::to_string(&entries).unwrap(), "[]");
            let merged = action.arguments(&serde_json::to_string(&payload).unwrap()).unwrap();
            let mut expected: std::collections::HashMap<String, i8> =
                stored.iter().map(|(key, (value, _))| (key.clone(), *value)).collect();
            expected.extend(payload);
            let (init, run): (std::collections::BTreeMap<_, _>, std::collections::BTreeMap<_, _>) =
                expected.into_iter().partition(|(key, _)| stored.get(key).is_some_and(|(_, init)| *init));
            prop_assert_eq!(merged.run.read::<std::collections::BTreeMap<String, i8>>().unwrap(), run);
            let env: std::collections::BTreeMap<String, i8> =
                merged.init_env.into_iter().map(|(key, text)| (key, text.parse().unwrap())).collect();
            prop_assert_eq!(env, init);
        }
    }
}
