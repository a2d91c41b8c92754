use super::*;

const KEY_128: &str = "BwcHBwcHBwcHBwcHBwcHBw==";
const KEY_256: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
const OTHER_256: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

fn keyring(current: &str, keys: &[(&str, &str)]) -> Result<Keyring, KeyringError> {
    let keys = keys.iter().map(|(id, key)| ((*id).to_owned(), (*key).to_owned())).collect();
    Keyring::new(Some(current), &keys)
}

fn parameters(json: &str) -> Parameters {
    Parameters::from_json(serde_json::from_str(json).unwrap()).unwrap()
}

#[test]
fn what_is_locked_opens_with_the_key_it_names_whichever_is_current() {
    let clear = parameters(r#"[{"key":"a","value":{"deep":[1,"ü"]}},{"key":"i","value":"s","init":true}]"#);
    let keys = [("aes-128", KEY_128), ("aes-256", KEY_256), ("aes-256/next", OTHER_256)];
    for (current, _) in keys {
        let locked = keyring(current, &keys).unwrap().lock(clear.clone());
        for other in ["off", "noop", "aes-128", "aes-256", "aes-256/next"] {
            let ring = keyring(other, &keys).unwrap();
            for (locked, clear) in locked.0.iter().zip(&clear.0) {
                assert_eq!(locked.encryption.as_deref(), Some(current));
                assert_eq!((&locked.key, locked.init), (&clear.key, clear.init));
                assert!(!locked.value.as_str().contains("deep"), "{locked:?}");
                assert_eq!(ring.unlock(locked).unwrap(), clear.value, "{current} with {other}");
            }
            assert_eq!(ring.lock(locked.clone()), locked, "what is locked stays as it is");
        }
    }
    let ring = keyring("aes-256", &keys).unwrap();
    assert_ne!(ring.lock(clear.clone()), ring.lock(clear), "the nonce is random");
}

#[test]
fn without_a_current_key_and_without_a_value_nothing_is_locked() {
    let clear = parameters(r#"[{"key":"a","value":1},{"key":"n","value":null}]"#);
    for ring in [Keyring::default(), keyring("off", &[("aes-128", KEY_128)]).unwrap()] {
        assert_eq!(ring.lock(clear.clone()), clear);
    }
    let locked = keyring("aes-128", &[("aes-128", KEY_128)]).unwrap().lock(clear.clone());
    assert_eq!(locked.0[1], clear.0[1], "declared and undefined");
    assert_ne!(locked.0[0], clear.0[0]);
}

/// Made with the `crypto` of Node.js, with bytes 0, 1, 2 … for a nonce.
#[test]
fn the_form_is_that_of_other_implementations() {
    let text = r#"{"a":[1,"ü"]}"#;
    for (id, key, sealed) in [
        ("aes-128", KEY_128, "AAAADAABAgMEBQYHCAkKCzZ7wn9zGsjBdETmmoBTUZhLk4Dq784NeTI+3arakw=="),
        (
            "aes-256",
            KEY_256,
            "AAAAgAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj9AQUJDREVGR0hJ\
             SktMTU5PUFFSU1RVVldYWVpbXF1eX2BhYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ent8fX5/Aa5ERr3QPnp6/OnF99ZIWoYdxFTIHBIry2899\
             NP9",
        ),
    ] {
        let cipher = Cipher::new(id, key).unwrap();
        let nonce: Vec<u8> = (0..cipher.nonce_len() as u8).collect();
        assert_eq!(STANDARD.encode(cipher.seal(&nonce, text)), sealed, "{id}");
        let stored = Parameter { encryption: Some(id.into()), ..Parameter::new("a", RawJson::string(sealed)) };
        assert_eq!(keyring("off", &[(id, key)]).unwrap().unlock(&stored).unwrap().as_str(), text);
    }
}

#[test]
fn another_key_or_a_damaged_value_is_told_by_name() {
    let locked = keyring("aes-256", &[("aes-256", KEY_256)]).unwrap().lock(parameters(r#"[{"key":"pw","value":"x"}]"#));
    let locked = &locked.0[0];
    let told = |ring: &Keyring, parameter: &Parameter| ring.unlock(parameter).unwrap_err().to_string();
    let wrong = "The parameter 'pw' cannot be decrypted: the key 'aes-256' is not the one that it was encrypted with, or \
                 the value is damaged.";
    assert_eq!(told(&keyring("aes-256", &[("aes-256", OTHER_256)]).unwrap(), locked), wrong);
    assert_eq!(
        told(&keyring("aes-128", &[("aes-128", KEY_128)]).unwrap(), locked),
        "The parameter 'pw' is encrypted with the key 'aes-256', which is not configured."
    );

    let right = keyring("off", &[("aes-256", KEY_256)]).unwrap();
    let sealed = STANDARD.decode(locked.value.read::<String>().unwrap()).unwrap();
    let with = |value: RawJson| Parameter { value, ..locked.clone() };
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert_eq!(told(&right, &with(RawJson::string(&STANDARD.encode(damaged)))), wrong, "byte {at}");
        assert_eq!(told(&right, &with(RawJson::string(&STANDARD.encode(&sealed[..at])))), wrong, "cut at {at}");
    }
    for other in [RawJson::string("no base64"), RawJson::from(7), RawJson::null()] {
        assert_eq!(told(&right, &with(other)), wrong);
    }
}

#[test]
fn what_others_encrypted_is_theirs() {
    let ring = keyring("aes-256", &[("aes-256", KEY_256)]).unwrap();
    for id in ["rot13", "aes-512", "AES-256", "aes-256/", ""] {
        let theirs = Parameter { encryption: Some(id.into()), ..Parameter::new("a", RawJson::string("x")) };
        assert_eq!(ring.unlock(&theirs).unwrap(), theirs.value, "{id}");
    }
}

#[test]
fn keys_that_are_none_are_refused_and_never_shown() {
    for (current, keys, error) in [
        ("aes-256", &[][..], "there is no key 'aes-256'"),
        ("aes-128", &[("aes-256", KEY_256)], "there is no key 'aes-128'"),
        ("off", &[("aes-256", KEY_128)], "the key 'aes-256' is not base64 of 32 bytes"),
        ("off", &[("aes-128", "secret!")], "the key 'aes-128' is not base64 of 16 bytes"),
        (
            "off",
            &[("des", KEY_128)],
            "'des' is no id of a key: it begins with aes-128 or aes-256 and may go on with a slash and a name",
        ),
    ] {
        assert_eq!(keyring(current, keys).unwrap_err().to_string(), error);
    }
    let shown = format!("{:?}", keyring("aes-128", &[("aes-128", KEY_128)]).unwrap());
    assert_eq!(shown, r#"Keyring { current: Some("aes-128"), keys: ["aes-128"] }"#);
}
