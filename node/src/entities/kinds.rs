//! The runtimes manifest, in OpenWhisk's format, and the kinds that can be used here: those the back end reports.
//!
//! Source: apache/openwhisk `ExecManifest.scala`, `ansible/files/runtimes.json`.

use std::{cmp::Reverse, collections::BTreeMap};

use protocol::entity::exec::{self, KindRules};
use serde::{Deserialize, Serialize};

/// The manifest that upstream ships.
const UPSTREAM: &str = include_str!("runtimes.json");

/// What the manifest says, as far as a node acts on it. Unknown members are ignored, as other tools have their own.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    runtimes: BTreeMap<String, Vec<Runtime>>,
    #[serde(default)]
    blackboxes: Vec<Image>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    kind: String,
    image: Image,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    deprecated: bool,
    attached: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    require_main: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Image {
    registry: Option<String>,
    prefix: Option<String>,
    name: String,
    tag: Option<String>,
}

impl Image {
    fn pull_name(&self) -> String {
        let part = |part: &Option<String>| part.as_ref().map_or(String::new(), |part| format!("{part}/"));
        let tag = self.tag.as_ref().map_or(String::new(), |tag| format!(":{tag}"));
        format!("{}{}{}{tag}", part(&self.registry), part(&self.prefix), self.name)
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the runtimes manifest cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("{0} has multiple versions, but no default.")]
    NoDefault(String),
    #[error("Found more than one default for {family}: {}", kinds.join(", "))]
    SeveralDefaults { family: String, kinds: Vec<String> },
}

impl Manifest {
    /// # Errors
    /// [`ManifestError`]; a node does not start with such a manifest.
    pub fn parse(json: &str) -> Result<Self, ManifestError> {
        let mut manifest: Self = serde_json::from_str(json)?;
        for (family, runtimes) in &mut manifest.runtimes {
            if let [only] = &mut runtimes[..] {
                only.default = true;
            }
            let defaults: Vec<String> =
                runtimes.iter().filter(|runtime| runtime.default).map(|runtime| runtime.kind.clone()).collect();
            match defaults.len() {
                0 if runtimes.len() > 1 => return Err(ManifestError::NoDefault(family.clone())),
                0 | 1 => {}
                _ => return Err(ManifestError::SeveralDefaults { family: family.clone(), kinds: defaults }),
            }
        }
        Ok(manifest)
    }

    /// The manifest that upstream ships.
    ///
    /// # Panics
    /// Never: a test parses it.
    pub fn upstream() -> Self {
        Self::parse(UPSTREAM).expect("the built-in manifest is held by a test")
    }
}

/// A kind as `GET /` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kind {
    pub kind: String,
    /// The image that upstream would run it in.
    pub image: String,
    pub deprecated: bool,
    pub default: bool,
    pub attached: bool,
    pub require_main: bool,
}

/// The kinds of this node, by family.
#[derive(Debug, Clone)]
pub struct Kinds {
    families: BTreeMap<String, Vec<Kind>>,
    blackboxes: Vec<String>,
}

impl Kinds {
    /// The kinds among `offered`, which the back end can run: as the manifest describes them, or, if it does not know
    /// them, like others of their family. The default of a family is the manifest's if it is offered, else the newest.
    pub fn new(manifest: &Manifest, offered: &[String]) -> Self {
        let mut families: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
        for kind in offered {
            let Some((family, version)) = kind.split_once(':') else { continue };
            let known = manifest.runtimes.get(family).map_or(&[][..], Vec::as_slice);
            let entry = match known.iter().find(|runtime| runtime.kind == *kind) {
                Some(runtime) => Kind {
                    kind: kind.clone(),
                    image: runtime.image.pull_name(),
                    deprecated: runtime.deprecated,
                    default: runtime.default,
                    attached: runtime.attached.is_some(),
                    require_main: runtime.require_main,
                },
                None => Kind {
                    kind: kind.clone(),
                    image: format!("openwhisk/action-{family}-v{version}:nightly"),
                    deprecated: false,
                    default: false,
                    attached: true,
                    require_main: known.iter().any(|runtime| runtime.require_main),
                },
            };
            let kinds = families.entry(family.to_owned()).or_default();
            if !kinds.contains(&entry) {
                kinds.push(entry);
            }
        }
        for kinds in families.values_mut() {
            kinds.sort_by_key(|kind| version(&kind.kind));
            if !kinds.iter().any(|kind| kind.default) {
                let newest = kinds.iter_mut().min_by_key(|kind| (kind.deprecated, Reverse(version(&kind.kind))));
                newest.into_iter().for_each(|kind| kind.default = true);
            }
        }
        Self { families, blackboxes: manifest.blackboxes.iter().map(Image::pull_name).collect() }
    }

    /// By family, for `GET /`.
    pub fn families(&self) -> &BTreeMap<String, Vec<Kind>> {
        &self.families
    }

    /// Images that need not be pulled.
    pub fn blackboxes(&self) -> &[String] {
        &self.blackboxes
    }

    /// True for a kind that may be read and deleted only. One that is not offered any more is not known to be.
    pub fn is_deprecated(&self, kind: &str) -> bool {
        self.find(kind).is_some_and(|kind| kind.deprecated)
    }

    /// The kind that `kind` stands for here, such as `nodejs:20` for `nodejs:default`; `None` if it is not offered.
    pub fn resolve(&self, kind: &str) -> Option<String> {
        self.find(kind).map(|entry| entry.kind.clone())
    }

    fn find(&self, kind: &str) -> Option<&Kind> {
        let (family, version) = kind.split_once(':')?;
        let kinds = self.families.get(family)?;
        kinds.iter().find(|entry| if version == "default" { entry.default } else { entry.kind == kind })
    }
}

/// `python:3.11` is newer than `python:3.9`.
fn version(kind: &str) -> Vec<u32> {
    let version = kind.split_once(':').map_or("", |(_, version)| version);
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

impl exec::Kinds for Kinds {
    fn rules(&self, kind: &str) -> Option<KindRules> {
        let entry = self.find(kind)?;
        Some(KindRules { kind: entry.kind.clone(), attached: entry.attached, require_main: entry.require_main })
    }

    fn names(&self) -> Vec<&str> {
        self.families.values().flatten().map(|kind| kind.kind.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use exec::Kinds as _;

    use super::*;

    fn kinds(offered: &[&str]) -> Kinds {
        let offered: Vec<String> = offered.iter().map(|kind| (*kind).to_owned()).collect();
        Kinds::new(&Manifest::upstream(), &offered)
    }

    #[test]
    fn the_default_is_upstreams_if_it_is_offered() {
        let kinds = kinds(&["nodejs:18", "nodejs:20", "nodejs:22", "python:3.10", "python:3.11", "blackbox"]);
        assert_eq!(kinds.rules("nodejs:default").unwrap().kind, "nodejs:20");
        assert_eq!(kinds.rules("python:default").unwrap().kind, "python:3.10");
        assert_eq!(kinds.names(), ["nodejs:18", "nodejs:20", "nodejs:22", "python:3.10", "python:3.11"]);
        assert_eq!(kinds.rules("go:default"), None);
        assert_eq!(kinds.rules("nodejs"), None);
        assert_eq!(kinds.blackboxes(), ["openwhisk/dockerskeleton:nightly"]);
    }

    #[test]
    fn else_it_is_the_newest_that_is_there() {
        let kinds = kinds(&["python:3.9", "python:3.13", "python:3.12"]);
        assert_eq!(kinds.rules("python:default").unwrap().kind, "python:3.13");
        assert_eq!(kinds.families()["python"].iter().filter(|kind| kind.default).count(), 1);
    }

    #[test]
    fn a_kind_as_shown() {
        let kinds = kinds(&["nodejs:20", "java:8", "java:17"]);
        assert_eq!(
            serde_json::to_string(&kinds.families()["nodejs"]).unwrap(),
            r#"[{"kind":"nodejs:20","image":"openwhisk/action-nodejs-v20:nightly","deprecated":false,"default":true,"attached":true,"requireMain":false}]"#
        );
        assert!(kinds.rules("java:17").unwrap().require_main, "as others of its family");
    }

    #[test]
    fn manifests_that_are_refused() {
        let family = |entries: &str| Manifest::parse(&format!(r#"{{"runtimes":{{"a":[{entries}]}}}}"#));
        let one = r#"{"kind":"a:1","image":{"name":"i"}}"#;
        let default = r#"{"kind":"a:2","default":true,"image":{"name":"i"},"stemCells":[{}]}"#;
        assert!(family(one).is_ok() && family(&format!("{one},{default}")).is_ok());
        assert_eq!(
            family(&format!("{one},{one}")).unwrap_err().to_string(),
            "a has multiple versions, but no default."
        );
        assert_eq!(
            family(&format!("{default},{default}")).unwrap_err().to_string(),
            "Found more than one default for a: a:2, a:2"
        );
        assert!(Manifest::parse("{}").is_err());
    }

    #[test]
    fn deprecated_kinds_are_known_and_never_the_default_by_age() {
        let manifest = Manifest::parse(
            r#"{"runtimes":{"a":[{"kind":"a:1","default":true,"image":{"name":"i"}},
                {"kind":"a:3","deprecated":true,"image":{"name":"i"}},{"kind":"a:2","image":{"name":"i"}}]}}"#,
        )
        .unwrap();
        let kinds = Kinds::new(&manifest, &["a:2".to_owned(), "a:3".to_owned()]);
        assert_eq!(kinds.rules("a:default").unwrap().kind, "a:2");
        assert!(kinds.is_deprecated("a:3") && !kinds.is_deprecated("a:2") && !kinds.is_deprecated("gone:1"));
    }
}
