//! The kinds that can be used here: those of the runtimes manifest that the back end can run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use protocol::entity::exec::{self, KindRules};
use serde::Serialize;

use super::manifest::{Manifest, Runtime};

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

impl From<&Runtime> for Kind {
    fn from(runtime: &Runtime) -> Self {
        Self {
            kind: runtime.kind.clone(),
            image: runtime.image.pull_name(),
            deprecated: runtime.deprecated,
            default: runtime.default,
            attached: runtime.is_attached,
            require_main: runtime.require_main,
        }
    }
}

/// The kinds of this node, by family.
#[derive(Debug, Clone)]
pub struct Kinds {
    families: BTreeMap<String, Vec<Kind>>,
    /// Family and place of each kind, and of the default of each family as `family:default`.
    places: HashMap<String, (String, usize)>,
    any_deprecated: bool,
    /// Those whose source code nothing compiles.
    executables_only: Vec<String>,
}

impl Kinds {
    /// The kinds of `manifest` that the back end can run, which are among `offered`, and those that are deprecated, which
    /// nothing needs to run. If the manifest is not the operator's own, also those which it does not know: they are like
    /// others of their family. The default of a family is the manifest's if it is here, else the newest that may be used.
    pub fn new(manifest: &Manifest, offered: &[String]) -> Self {
        let mut families: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
        for (family, runtimes) in &manifest.runtimes {
            let usable = |runtime: &&Runtime| runtime.deprecated || offered.contains(&runtime.kind);
            let kinds: Vec<Kind> = runtimes.iter().filter(usable).map(Kind::from).collect();
            if !kinds.is_empty() {
                families.insert(family.clone(), kinds);
            }
        }
        let is_known = |kind: &String| manifest.runtimes.values().flatten().any(|runtime| runtime.kind == *kind);
        for kind in offered.iter().filter(|kind| !manifest.is_own && !is_known(kind)) {
            let Some((family, version)) = kind.split_once(':') else { continue };
            let relatives = manifest.runtimes.get(family).map_or(&[][..], Vec::as_slice);
            let kinds = families.entry(family.to_owned()).or_default();
            if kinds.iter().all(|known| known.kind != *kind) {
                kinds.push(Kind {
                    kind: kind.clone(),
                    image: format!("openwhisk/action-{family}-v{version}:nightly"),
                    deprecated: false,
                    default: false,
                    attached: true,
                    require_main: relatives.iter().any(|runtime| runtime.require_main),
                });
            }
        }
        let mut places = HashMap::new();
        for (family, kinds) in &mut families {
            kinds.sort_by_key(|kind| version(&kind.kind));
            if !kinds.iter().any(|kind| kind.default) {
                let usable = kinds.iter_mut().filter(|kind| !kind.deprecated);
                let newest = usable.min_by_key(|kind| Reverse(version(&kind.kind)));
                newest.into_iter().for_each(|kind| kind.default = true);
            }
            for (place, kind) in kinds.iter().enumerate() {
                places.insert(kind.kind.clone(), (family.clone(), place));
                if kind.default {
                    places.insert(format!("{family}:default"), (family.clone(), place));
                }
            }
        }
        let any_deprecated = families.values().flatten().any(|kind| kind.deprecated);
        Self { any_deprecated, families, places, executables_only: Vec::new() }
    }

    /// The same, where actions of `kinds` must come as executables: the back end has no compiler for their source code.
    pub fn with_executables_only(self, kinds: Vec<String>) -> Self {
        Self { executables_only: kinds, ..self }
    }

    /// Whether actions of `kind` must come as executables.
    pub fn needs_executable(&self, kind: &str) -> bool {
        self.executables_only.iter().any(|other| other == kind)
    }

    /// By family, for `GET /`.
    pub fn families(&self) -> &BTreeMap<String, Vec<Kind>> {
        &self.families
    }

    /// Those of `offered`, the kinds of the back end, that actions can have. `blackbox` needs no manifest.
    pub fn usable(&self, offered: Vec<String>) -> Vec<String> {
        let is_usable = |kind: &String| kind == "blackbox" || self.find(kind).is_some_and(|kind| !kind.deprecated);
        offered.into_iter().filter(is_usable).collect()
    }

    /// True for a kind that may be read and deleted only. One that is not here any more is not known to be.
    pub fn is_deprecated(&self, kind: &str) -> bool {
        self.any_deprecated && self.find(kind).is_some_and(|kind| kind.deprecated)
    }

    /// The kind that `kind` stands for here, such as `nodejs:20` for `nodejs:default`; `None` if it cannot be used.
    pub fn resolve(&self, kind: &str) -> Option<String> {
        self.find(kind).map(|entry| entry.kind.clone())
    }

    fn find(&self, kind: &str) -> Option<&Kind> {
        let (family, place) = self.places.get(kind)?;
        self.families.get(family)?.get(*place)
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
    fn deprecated_kinds_are_known_wherever_they_would_run_and_never_the_default_by_age() {
        let manifest = Manifest::parse(
            r#"{"runtimes":{"a":[{"kind":"a:1","default":true,"image":{"name":"i"}},
                {"kind":"a:3","deprecated":true,"image":{"name":"i"}},{"kind":"a:2","image":{"name":"i"}}]}}"#,
        )
        .unwrap();
        let kinds = Kinds::new(&manifest, &["a:2".to_owned()]);
        assert_eq!(kinds.rules("a:default").unwrap().kind, "a:2");
        assert!(kinds.is_deprecated("a:3") && !kinds.is_deprecated("a:2") && !kinds.is_deprecated("gone:1"));
        assert_eq!(kinds.names(), ["a:2", "a:3"]);
        let offered = ["a:2", "a:3", "b:1", "blackbox"].map(str::to_owned);
        assert_eq!(kinds.usable(offered.to_vec()), ["a:2", "blackbox"]);
        let none = Kinds::new(&manifest, &[]);
        assert_eq!((none.names(), none.resolve("a:default")), (vec!["a:3"], None), "what is deprecated is no default");
    }

    #[test]
    fn an_own_manifest_has_the_only_kinds() {
        let json = r#"{"runtimes":{"js":[{"kind":"nodejs:18","image":{"name":"i"}},
            {"kind":"nodejs:22","default":true,"image":{"name":"i"}},{"kind":"plain","image":{"name":"i"}}]}}"#;
        let offered = ["nodejs:18", "nodejs:20", "plain", "python:3.11"].map(str::to_owned);
        let own = Manifest { is_own: true, ..Manifest::parse(json).unwrap() };
        let kinds = Kinds::new(&own, &offered);
        assert_eq!(kinds.names(), ["plain", "nodejs:18"]);
        assert_eq!(kinds.resolve("js:default").as_deref(), Some("nodejs:18"), "a family may have any name");
        assert_eq!((kinds.resolve("nodejs:default"), kinds.resolve("python:3.11")), (None, None));
        let others = Kinds::new(&Manifest::parse(json).unwrap(), &offered);
        assert_eq!(others.resolve("python:default").as_deref(), Some("python:3.11"));
    }
}
