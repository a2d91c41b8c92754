//! Credentials for registries, as Docker's own clients keep them: the member `auths` of a `config.json`.
//!
//! Source: docker/cli `cli/config/configfile/file.go`, `cli/config/credentials/file_store.go`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::auth::DockerCredentials;
use serde::Deserialize;

use super::images::registry;

/// How `docker login` calls Docker's own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// How images call it.
const DOCKER_HUB_NAMES: [&str; 2] = ["docker.io", "index.docker.io"];

/// A file with credentials. It is read again for each pull: those of some registries live for hours only.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    path: PathBuf,
}

/// Why a file with credentials is of no use. What is in it is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the registries' credentials in {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the registries' credentials in {path} are not those of a Docker client: {reason}")]
    Malformed { path: PathBuf, reason: String },
}

/// What is known here of a `config.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    /// `user:password` in base64; wins over the two in plain text.
    #[serde(default)]
    auth: String,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// Those in the file `path`.
    ///
    /// # Errors
    /// If it is of no use now; later it is looked at again.
    pub async fn open(path: PathBuf) -> Result<Self, CredentialsError> {
        let credentials = Self { path };
        let File { creds_store, cred_helpers, .. } = credentials.read().await?;
        if !creds_store.is_empty() || !cred_helpers.is_empty() {
            let path = credentials.path.display();
            tracing::warn!(%path, "credentials that Docker's helpers keep are not asked for, only those in the file itself");
        }
        Ok(credentials)
    }

    /// Those for the registry of `image`, if there are any.
    ///
    /// # Errors
    /// [`CredentialsError`]
    pub async fn of(&self, image: &str) -> Result<Option<DockerCredentials>, CredentialsError> {
        let mut auths = self.read().await?.auths;
        let server = registry(image).filter(|name| !DOCKER_HUB_NAMES.contains(name)).unwrap_or(DOCKER_HUB);
        let key = match auths.contains_key(server) {
            true => Some(server.to_owned()),
            // Old clients wrote addresses with their scheme and path.
            false => auths.keys().find(|key| host(key) == host(server)).cloned(),
        };
        let found = key.and_then(|key| auths.remove_entry(&key));
        found.map(|(server, auth)| auth.decoded(server, &self.path)).transpose()
    }

    async fn read(&self) -> Result<File, CredentialsError> {
        let text = tokio::fs::read(&self.path)
            .await
            .map_err(|source| CredentialsError::Unreadable { path: self.path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|error| {
            // The error's own text may quote a password.
            let reason = format!("{:?} error at line {}", error.classify(), error.line());
            CredentialsError::Malformed { path: self.path.clone(), reason }
        })
    }
}

impl Auth {
    fn decoded(self, server: String, path: &Path) -> Result<DockerCredentials, CredentialsError> {
        let (username, password) = if self.auth.is_empty() {
            (self.username, self.password)
        } else {
            let decoded = STANDARD.decode(&self.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (username, password) = pair.ok_or_else(|| CredentialsError::Malformed {
                path: path.to_owned(),
                reason: format!("`auth` of {server} is not user:password in base64"),
            })?;
            (Some(username.to_owned()), Some(password.trim_end_matches('\0').to_owned()))
        };
        Ok(DockerCredentials {
            username,
            password,
            identitytoken: self.identitytoken,
            registrytoken: self.registrytoken,
            serveraddress: Some(server),
            ..DockerCredentials::default()
        })
    }
}

/// `https://host:port/path` without what is around the host.
fn host(server: &str) -> &str {
    let server = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    server.split('/').next().unwrap_or(server)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    async fn of(config: &Value, image: &str) -> Result<Option<(String, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let credentials = Credentials::open(path).await.map_err(|error| error.to_string())?;
        let found = credentials.of(image).await.map_err(|error| error.to_string())?;
        Ok(found.map(|found| (found.username.unwrap_or_default(), found.password.unwrap_or_default())))
    }

    fn auth(text: &str) -> Value {
        json!({"auth": STANDARD.encode(text)})
    }

    #[tokio::test]
    async fn each_registry_has_its_own() {
        let config = json!({"HttpHeaders": {}, "auths": {
            "https://index.docker.io/v1/": auth("hub:a:b"),
            "registry.example:5000": auth("own:\u{e9}\0"),
            "https://old.example/v1/": {"username": "old", "password": "p"},
            "exact.example": auth("exact:1"),
            "https://exact.example": auth("other:2"),
            "token.example": {"identitytoken": "t"},
        }});
        for (image, expected) in [
            ("me/it:1", Some(("hub", "a:b"))),
            ("it", Some(("hub", "a:b"))),
            ("docker.io/me/it", Some(("hub", "a:b"))),
            ("registry.example:5000/me/it:1", Some(("own", "\u{e9}"))),
            ("registry.example/me/it:1", None),
            ("old.example/it", Some(("old", "p"))),
            ("exact.example/it", Some(("exact", "1"))),
            ("token.example/it", Some(("", ""))),
            ("localhost/it", None),
        ] {
            let expected = expected.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!(of(&config, image).await.unwrap(), expected, "{image}");
        }
        assert_eq!(of(&json!({"credsStore": "desktop"}), "it").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_of_no_use_is_named_and_not_repeated() {
        for config in [json!({"auths": {"a.example": "secret"}}), json!({"auths": {"a.example": {"auth": "secret!"}}})]
        {
            let error = of(&config, "a.example/it").await.unwrap_err();
            assert!(error.contains("config.json") && !error.contains("secret"), "{error}");
        }
        let error = Credentials::open("/nonexistent/config.json".into()).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/config.json cannot be read: No such file"), "{error}");
    }
}
