//! Values of parameters that are stored encrypted: with which key, and in which form.
//!
//! The form is OpenWhisk's, which therefore can read what is stored here and the other way round: AES in Galois/counter
//! mode over the JSON text of the value; in base64 the length of the nonce (four bytes, big-endian), the nonce, the
//! ciphertext and its tag of 16 bytes. The id of the key stands beside it, in the parameter's `encryption`.
//!
//! Values are encrypted when an action or package is written and decrypted when a container runs it. What is kept of
//! accepted work in between has none of them.
//!
//! Source: apache/openwhisk `ParameterEncryption.scala`, `application.conf` (`parameter-storage`).

use std::{collections::BTreeMap, fmt, sync::Arc};

use aes_gcm::{
    Aes128Gcm, AesGcm, KeyInit, Nonce,
    aead::{Aead, consts::U128},
    aes::Aes256,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use protocol::{
    RawJson,
    entity::{Parameter, Parameters},
};
use rand::RngCore;

/// The keys of a node and which of them new values are encrypted with. The same on all nodes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Keyring {
    current: Option<String>,
    keys: Arc<BTreeMap<String, Cipher>>,
}

/// OpenWhisk's two schemes, which differ in the nonce, too.
enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<AesGcm<Aes256, U128>>),
}

/// Why there is no [`Keyring`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("'{0}' is no id of a key: it begins with aes-128 or aes-256 and may go on with a slash and a name")]
    Id(String),
    /// Says nothing of the key itself.
    #[error("the key '{id}' is not base64 of {bytes} bytes")]
    Key { id: String, bytes: usize },
    #[error("there is no key '{0}'")]
    Missing(String),
}

/// Why a value cannot be read. For the caller, who sees key and id in the action as well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnlockError {
    #[error("The parameter '{parameter}' is encrypted with the key '{id}', which is not configured.")]
    NoKey { parameter: String, id: String },
    #[error(
        "The parameter '{parameter}' cannot be decrypted: the key '{id}' is not the one that it was encrypted with, or the value is damaged."
    )]
    WrongKey { parameter: String, id: String },
}

impl Keyring {
    /// `current`: an id of `keys`; `None` or `off` or `noop`: values are stored as they come. `keys`: base64 by id; an id
    /// is `aes-128` or `aes-256`, as OpenWhisk knows them, or one of these with `/` and a name, for a second key of a kind.
    ///
    /// # Errors
    /// [`KeyringError`]
    pub fn new(current: Option<&str>, keys: &BTreeMap<String, String>) -> Result<Self, KeyringError> {
        let keys = keys
            .iter()
            .map(|(id, key)| Ok((id.clone(), Cipher::new(id, key)?)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let current = match current {
            None | Some("off" | "noop") => None,
            Some(id) if keys.contains_key(id) => Some(id.to_owned()),
            Some(id) => return Err(KeyringError::Missing(id.to_owned())),
        };
        Ok(Self { current, keys: Arc::new(keys) })
    }

    /// `parameters` as they are to be stored. Those that are encrypted already stay as they are, so that a client can
    /// write back what it has read; a parameter without a value has none to hide, and stays one without.
    pub fn lock(&self, mut parameters: Parameters) -> Parameters {
        if let Some((id, cipher)) = self.current.as_ref().and_then(|id| self.keys.get_key_value(id)) {
            for parameter in &mut parameters.0 {
                if parameter.encryption.is_none() && !parameter.value.is_null() {
                    let mut nonce = [0; Cipher::LONGEST_NONCE];
                    rand::rng().fill_bytes(&mut nonce);
                    let sealed = cipher.seal(&nonce[..cipher.nonce_len()], parameter.value.as_str());
                    parameter.value = RawJson::string(&STANDARD.encode(sealed));
                    parameter.encryption = Some(id.clone());
                }
            }
        }
        parameters
    }

    /// The value of `parameter` in the clear. One that was encrypted by other means, such as a client's own, stays as it is.
    ///
    /// # Errors
    /// [`UnlockError`]
    pub fn unlock(&self, parameter: &Parameter) -> Result<RawJson, UnlockError> {
        let Some(id) = parameter.encryption.as_deref().filter(|id| scheme(id).is_some()) else {
            return Ok(parameter.value.clone());
        };
        let named = || (parameter.key.to_string(), id.to_owned());
        let Some(cipher) = self.keys.get(id) else {
            let (parameter, id) = named();
            return Err(UnlockError::NoKey { parameter, id });
        };
        let text = parameter.value.read::<String>().ok();
        let sealed = text.and_then(|text| STANDARD.decode(text).ok());
        sealed.and_then(|sealed| cipher.open(&sealed)).and_then(|text| RawJson::parse(&text).ok()).ok_or_else(|| {
            let (parameter, id) = named();
            UnlockError::WrongKey { parameter, id }
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&String> = self.keys.keys().collect();
        f.debug_struct("Keyring").field("current", &self.current).field("keys", &ids).finish()
    }
}

/// Bits of the keys of `id`; `None`: it is none of ours.
fn scheme(id: &str) -> Option<usize> {
    let (scheme, name) = match id.split_once('/') {
        Some((scheme, name)) => (scheme, Some(name)),
        None => (id, None),
    };
    match scheme {
        _ if name.is_some_and(str::is_empty) => None,
        "aes-128" => Some(128),
        "aes-256" => Some(256),
        _ => None,
    }
}

impl Cipher {
    const LONGEST_NONCE: usize = 128;
    const LENGTH: usize = 4;

    fn new(id: &str, key: &str) -> Result<Self, KeyringError> {
        let bytes = scheme(id).ok_or_else(|| KeyringError::Id(id.to_owned()))? / 8;
        let wrong = || KeyringError::Key { id: id.to_owned(), bytes };
        let key = STANDARD.decode(key.trim()).map_err(|_| wrong())?;
        match bytes {
            16 => Aes128Gcm::new_from_slice(&key).map(|cipher| Self::Aes128(Box::new(cipher))),
            _ => AesGcm::new_from_slice(&key).map(|cipher| Self::Aes256(Box::new(cipher))),
        }
        .map_err(|_| wrong())
    }

    const fn nonce_len(&self) -> usize {
        match self {
            Self::Aes128(_) => 12,
            Self::Aes256(_) => Self::LONGEST_NONCE,
        }
    }

    /// `nonce`: random, of this cipher's length.
    fn seal(&self, nonce: &[u8], text: &str) -> Vec<u8> {
        let sealed = match self {
            Self::Aes128(cipher) => cipher.encrypt(Nonce::from_slice(nonce), text.as_bytes()),
            Self::Aes256(cipher) => cipher.encrypt(Nonce::from_slice(nonce), text.as_bytes()),
        };
        let sealed = sealed.expect("a parameter is far below the cipher's limit of 64 GiB");
        let mut bytes = (nonce.len() as u32).to_be_bytes().to_vec();
        bytes.extend(nonce);
        bytes.extend(sealed);
        bytes
    }

    fn open(&self, bytes: &[u8]) -> Option<String> {
        let (length, rest) = bytes.split_at_checked(Self::LENGTH)?;
        if length != (self.nonce_len() as u32).to_be_bytes() {
            return None;
        }
        let (nonce, sealed) = rest.split_at_checked(self.nonce_len())?;
        let text = match self {
            Self::Aes128(cipher) => cipher.decrypt(Nonce::from_slice(nonce), sealed),
            Self::Aes256(cipher) => cipher.decrypt(Nonce::from_slice(nonce), sealed),
        };
        String::from_utf8(text.ok()?).ok()
    }
}

#[cfg(test)]
mod tests;
