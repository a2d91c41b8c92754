//! The cluster's data key: what credentials are verified and sealed with.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::Sha256;

const FILE: &str = "data.key";
/// First part of the file's only line; the second is the key in hexadecimal digits.
const HEADER: &str = "whisp-data-key-1 ";
const NONCE: usize = 24;
/// First byte of sealed text.
const SEALED_VERSION: u8 = 1;

/// The key file `data.key` of the data directory: 32 random bytes, readable by its owner only. From it come one key that
/// verifies credentials and one that seals them. Cheap to clone.
#[derive(Clone)]
pub struct DataKey {
    verify: Hmac<Sha256>,
    seal: XChaCha20Poly1305,
}

/// Why there is no data key.
#[derive(Debug, thiserror::Error)]
pub enum DataKeyError {
    #[error("data key {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no data key of Whisp", .0.display())]
    Malformed(PathBuf),
    #[error("{} can be read by others than its owner (mode {mode:o}); set it to 600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{} is gone, but there is data that was written with it; no stored credential can be verified. Restore it from a backup",
        .0.display()
    )]
    Gone(PathBuf),
}

impl DataKey {
    /// Reads the key of `data_dir`. If there is none and `has_data` is false, makes one, which is on the disk when this
    /// returns.
    ///
    /// # Errors
    /// [`DataKeyError`] names the file and what is wrong with it.
    pub fn open(data_dir: &Path, has_data: bool) -> Result<Self, DataKeyError> {
        let path = data_dir.join(FILE);
        let failed = |source| DataKeyError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_data => {
                return create(data_dir, &path).map_err(failed);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DataKeyError::Gone(path)),
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DataKeyError::Exposed { path, mode });
        }
        let mut text = String::new();
        // A longer file is another file.
        file.take(256).read_to_string(&mut text).map_err(failed)?;
        let key = text.strip_prefix(HEADER).and_then(|hex| parse_hex(hex.trim_end()));
        key.map(|key| Self::of(&key)).ok_or(DataKeyError::Malformed(path))
    }

    /// The key with these bytes.
    pub fn of(key: &[u8; 32]) -> Self {
        let derived = |purpose: &[u8]| -> [u8; 32] { mac(key).chain_update(purpose).finalize().into_bytes().into() };
        let seal = derived(b"whisp credentials: seal");
        Self {
            verify: mac(&derived(b"whisp credentials: verify")),
            seal: XChaCha20Poly1305::new(Key::from_slice(&seal)),
        }
    }

    /// HMAC-SHA-256 of a credential's key.
    pub fn mac(&self, key: &str) -> [u8; 32] {
        self.verify.clone().chain_update(key).finalize().into_bytes().into()
    }

    /// `key` encrypted, bound to its `uuid`: a version byte, a random nonce, then XChaCha20-Poly1305.
    pub fn seal(&self, uuid: &str, key: &str) -> Vec<u8> {
        let mut sealed = vec![SEALED_VERSION; 1 + NONCE];
        rand::rng().fill_bytes(&mut sealed[1..]);
        let payload = Payload { msg: key.as_bytes(), aad: uuid.as_bytes() };
        let text = self
            .seal
            .encrypt(XNonce::from_slice(&sealed[1..]), payload)
            .expect("a credential is far below the cipher's limit of 256 GiB");
        sealed.extend(text);
        sealed
    }

    /// The key that [`DataKey::seal`] got; `None` if it was sealed with another data key, for another uuid, or damaged.
    pub fn unseal(&self, uuid: &str, sealed: &[u8]) -> Option<String> {
        let (nonce, text) = sealed.strip_prefix(&[SEALED_VERSION])?.split_at_checked(NONCE)?;
        let payload = Payload { msg: text, aad: uuid.as_bytes() };
        let key = self.seal.decrypt(XNonce::from_slice(nonce), payload).ok()?;
        String::from_utf8(key).ok()
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey")
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The file gets its name only when it is whole: a crash leaves no half key behind.
fn create(data_dir: &Path, path: &Path) -> io::Result<DataKey> {
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();

    let unfinished = data_dir.join("data.key.new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{HEADER}{hex}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(data_dir)?.sync_all()?;
    Ok(DataKey::of(&key))
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits = <&[u8; 64]>::try_from(hex.as_bytes()).ok()?;
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataKey::open(dir.path(), false).unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = DataKey::open(dir.path(), true).unwrap();
        assert_eq!(first.mac("key"), again.mac("key"));
        assert_eq!(again.unseal("uuid", &first.seal("uuid", "key")).as_deref(), Some("key"));

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(DataKey::open(dir.path(), true), Err(DataKeyError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_lost_key_is_not_replaced_once_there_is_data() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(DataKey::open(dir.path(), true), Err(DataKeyError::Gone(_))));
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn what_a_crash_left_half_written_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data.key.new"), "whisp-data-").unwrap();
        DataKey::open(dir.path(), false).unwrap();
        DataKey::open(dir.path(), true).unwrap();
    }

    #[test]
    fn another_file_is_no_key() {
        for text in
            ["", "hello", HEADER, &format!("{HEADER}{}", "g".repeat(64)), &format!("{HEADER}{}", "a".repeat(66))]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(DataKey::open(dir.path(), true), Err(DataKeyError::Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn sealed_keys_open_only_whole_and_for_their_uuid() {
        let key = DataKey::of(&[7; 32]);
        let sealed = key.seal("uuid", "secret");
        assert_ne!(sealed, key.seal("uuid", "secret"), "the nonce is random");
        assert_eq!(key.unseal("other", &sealed), None);
        assert_eq!(DataKey::of(&[8; 32]).unseal("uuid", &sealed), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.unseal("uuid", &damaged), None, "byte {at}");
            assert_eq!(key.unseal("uuid", &sealed[..at]), None, "cut at {at}");
        }
    }

    /// Stored values outlive this build: the derivation must never change.
    #[test]
    fn the_mac_of_a_key_is_frozen() {
        let mac: String = DataKey::of(&[7; 32]).mac("secret").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mac, "d31b4db21fb67e0057a93e2c2eaaaae2ffcea8c4a19782855e138fd57798e0fa");
    }
}
