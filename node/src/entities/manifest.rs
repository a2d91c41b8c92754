//! The runtimes manifest in OpenWhisk's format: which kinds there are, whatever runs them.
//!
//! Source: apache/openwhisk `ExecManifest.scala`, `ansible/files/runtimes.json`; reference `rest-api.md` 20 and
//! `execution.md` 3.1.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{ByteSize, size::SizeText};
use serde::{Deserialize, Deserializer, de::Error as _};

/// The manifest that upstream ships.
const UPSTREAM: &str = include_str!("runtimes.json");

/// What a manifest says, as far as a node acts on it. Unknown members are ignored, as other tools have their own.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// By family.
    pub runtimes: BTreeMap<String, Vec<Runtime>>,
    /// Images that a back end which pulls images need not pull.
    pub blackboxes: Vec<Image>,
    /// The operator's own: no other kinds may be used.
    pub is_own: bool,
}

/// One kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// `family:version`; old manifests have kinds without version.
    pub kind: String,
    pub image: Image,
    #[serde(default, deserialize_with = "or_false")]
    pub default: bool,
    /// May be read and deleted, and neither written nor invoked.
    #[serde(default, deserialize_with = "or_false")]
    pub deprecated: bool,
    #[serde(default, deserialize_with = "is_there", rename = "attached")]
    pub is_attached: bool,
    #[serde(default, deserialize_with = "or_false")]
    pub require_main: bool,
    /// It writes a line by which the end of an activation's logs is known, as all do that do not say otherwise.
    #[serde(default = "yes", deserialize_with = "or_yes", rename = "sentinelledLogs")]
    pub is_sentinelled: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub stem_cells: Vec<StemCells>,
}

/// An image in parts.
#[derive(Debug, Clone, Deserialize)]
pub struct Image {
    registry: Option<String>,
    prefix: Option<String>,
    name: String,
    tag: Option<String>,
}

impl Image {
    /// `[registry/][prefix/]name[:tag]`
    pub fn pull_name(&self) -> String {
        let folder = |part: &Option<String>| match part.as_deref() {
            None | Some("") => String::new(),
            Some(part) => format!("{}/", part.trim_end_matches('/')),
        };
        let tag = self.tag.as_ref().filter(|tag| !tag.is_empty()).map_or(String::new(), |tag| format!(":{tag}"));
        format!("{}{}{}{tag}", folder(&self.registry), folder(&self.prefix), self.name)
    }
}

/// Containers to keep ready for a kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StemCells {
    #[serde(alias = "count")]
    pub initial_count: usize,
    #[serde(deserialize_with = "size")]
    pub memory: ByteSize,
    pub reactive: Option<Reactive>,
}

/// How their number follows the cold starts of the kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reactive {
    pub min_count: usize,
    pub max_count: usize,
    /// Of a container that nobody takes.
    #[serde(deserialize_with = "duration")]
    pub ttl: Duration,
    /// Cold starts per interval for each `increment`.
    pub threshold: usize,
    pub increment: usize,
}

/// Why a manifest cannot be used. A node does not start with such a one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the runtimes manifest {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the runtimes manifest {path}: {source}")]
    Invalid { path: PathBuf, source: Box<ManifestError> },
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    #[error("{0} has multiple versions, but no default.")]
    NoDefault(String),
    #[error("Found more than one default for {family}: {}", kinds.join(", "))]
    SeveralDefaults { family: String, kinds: Vec<String> },
    #[error("{0} is there more than once")]
    Twice(String),
    /// Numbers that contradict each other.
    #[error("stem cells of {kind}: {reason}")]
    StemCells { kind: String, reason: &'static str },
}

impl Manifest {
    /// The operator's manifest in the file `path`.
    ///
    /// # Errors
    /// [`ManifestError`] names the file.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        let json = std::fs::read_to_string(path)
            .map_err(|source| ManifestError::Unreadable { path: path.to_owned(), source })?;
        let manifest = Self::parse(&json)
            .map_err(|source| ManifestError::Invalid { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { is_own: true, ..manifest })
    }

    /// # Errors
    /// [`ManifestError`]
    pub fn parse(json: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Written {
            runtimes: BTreeMap<String, Vec<Runtime>>,
            #[serde(default)]
            blackboxes: Vec<Image>,
        }
        let Written { mut runtimes, blackboxes } = serde_json::from_str(json)?;
        let mut seen = std::collections::HashSet::new();
        for (family, runtimes) in &mut runtimes {
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
            for runtime in runtimes {
                if !seen.insert(runtime.kind.clone()) {
                    return Err(ManifestError::Twice(runtime.kind.clone()));
                }
                if let Some(reason) = runtime.stem_cells.iter().find_map(StemCells::fault) {
                    return Err(ManifestError::StemCells { kind: runtime.kind.clone(), reason });
                }
            }
        }
        Ok(Self { runtimes, blackboxes, is_own: false })
    }

    /// The manifest that upstream ships.
    ///
    /// # Panics
    /// Never: a test parses it.
    pub fn upstream() -> Self {
        Self::parse(UPSTREAM).expect("the built-in manifest is held by a test")
    }

    /// All stem cells, with their kinds.
    pub fn stem_cells(&self) -> impl Iterator<Item = (&str, &StemCells)> {
        let runtimes = self.runtimes.values().flatten().filter(|runtime| !runtime.deprecated);
        runtimes.flat_map(|runtime| runtime.stem_cells.iter().map(|cells| (runtime.kind.as_str(), cells)))
    }
}

impl StemCells {
    /// What cannot be in these numbers.
    fn fault(&self) -> Option<&'static str> {
        if self.initial_count == 0 {
            return Some("initialCount must be positive");
        }
        if self.memory.as_mib() == 0 {
            return Some("memory must be at least 1 MB");
        }
        let reactive = self.reactive.as_ref()?;
        if reactive.max_count == 0 {
            Some("maxCount must be positive")
        } else if reactive.min_count > reactive.max_count {
            Some("minCount must be at most maxCount")
        } else if reactive.ttl.is_zero() {
            Some("ttl must be positive")
        } else if reactive.threshold == 0 {
            Some("threshold must be positive")
        } else if reactive.increment == 0 || reactive.increment > reactive.max_count {
            Some("increment must be positive and at most maxCount")
        } else {
            None
        }
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    or_default(deserializer)
}

const fn yes() -> bool {
    true
}

fn or_yes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(true))
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(deserializer)?.is_some())
}

/// `256 MB`
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let text: SizeText = String::deserialize(deserializer)?.parse().map_err(D::Error::custom)?;
    Ok(text.size())
}

/// `2 minutes`, in the words that Scala has for units.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let nanoseconds: u64 = match unit.trim() {
        "d" | "day" | "days" => 86_400_000_000_000,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        _ => return Err(D::Error::custom(format!("{text:?} is no duration such as \"2 minutes\""))),
    };
    let total = count.parse().ok().and_then(|count: u64| count.checked_mul(nanoseconds));
    total.map(Duration::from_nanos).ok_or_else(|| D::Error::custom(format!("{text:?} is no duration")))
}

#[cfg(test)]
mod tests;
