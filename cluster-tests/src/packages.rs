//! Packages of npm and PyPI, exactly those that the lock files in `packages/` name, fetched once per machine and kept in
//! `$WHISP_CACHE` (`~/.cache/whisp`), outside the clone.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

/// The folder with what is fetched or built once, that of `./dev`.
///
/// # Panics
/// If there is neither `WHISP_CACHE` nor a home.
pub fn cache() -> PathBuf {
    let given = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    given("WHISP_CACHE")
        .or_else(|| Some(given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")))?.join("whisp")))
        .expect("WHISP_CACHE, XDG_CACHE_HOME or HOME is set")
}

fn locks() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packages"))
}

/// The folder that contains `node_modules`.
///
/// # Errors
/// Why they could not be installed, in one line.
pub fn npm() -> Result<PathBuf, String> {
    install("npm", &["package.json", "package-lock.json"], |folder| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(locks().join(file), folder.join(file)).map_err(|error| error.to_string())?;
        }
        run(folder, "npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
    })
}

/// A folder `virtualenv`, as `virtualenv virtualenv && virtualenv/bin/pip install …` makes it with the machine's Python.
/// The returned path is that of the folder it lies in.
///
/// # Errors
/// Why it could not be made, in one line.
pub fn python() -> Result<PathBuf, String> {
    install("python", &["requirements.txt", "tools.txt"], |folder| {
        let requirements = locks().join("requirements.txt");
        let tools = locks().join("tools.txt");
        run(folder, "python3", ["-m", "venv", "tools"])?;
        let pip = folder.join("tools/bin/pip");
        let quiet =
            ["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary=:all:", "-r"];
        run(folder, &pip, quiet.iter().map(OsStr::new).chain([tools.as_os_str()]))?;
        run(folder, folder.join("tools/bin/virtualenv"), ["--quiet", "--no-download", "virtualenv"])?;
        let pip = folder.join("virtualenv/bin/pip");
        run(folder, &pip, quiet.iter().map(OsStr::new).chain([requirements.as_os_str()]))?;
        fs::remove_dir_all(folder.join("tools")).map_err(|error| error.to_string())
    })
}

/// A folder below the cache, named by the content of `files`, filled by `fill` if it is not there.
fn install(what: &str, files: &[&str], fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(fs::read(locks().join(file)).map_err(|error| format!("{file}: {error}"))?);
    }
    let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = cache().join("test-packages").join(format!("{what}-{name}"));
    // Two tests, and two clones, want it at once; whoever comes second waits. The lock ends with its descriptor.
    fs::create_dir_all(cache().join("test-packages")).map_err(|error| error.to_string())?;
    let lock = fs::File::create(folder.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let complete = folder.join(".complete");
    if !complete.exists() {
        // A virtual environment contains its own path, so it is filled in place.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        fill(&folder).map_err(|error| format!("{what}: {error}"))?;
        fs::write(&complete, "").map_err(|error| error.to_string())?;
    }
    Ok(folder)
}

fn run<A: AsRef<OsStr>>(
    folder: &Path,
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Result<(), String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", program.display(), text.trim().replace('\n', "; ")))
}
