//! Which interpreters this machine has: the kinds of actions that the process back end can run.
//!
//! Only real programs count. A version manager's shim is a script that would cost more than the interpreter's own start
//! (74 ms against 12 for Python), and a sandbox does not show it; its versions are found where it keeps them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What an interpreter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Node,
    Python,
}

/// An interpreter on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    pub language: Language,
    /// `nodejs:20`, `python:3.11`.
    pub kind: String,
    /// The program itself, no link.
    pub program: PathBuf,
    /// The folder that holds its `bin` and `lib`.
    pub prefix: PathBuf,
}

/// Oldest Python that the launcher runs on.
const OLDEST_PYTHON: u32 = 8;
/// Newest that is looked for by name.
const NEWEST_PYTHON: u32 = 30;

/// All interpreters in the folders of `search_path` (the form of `PATH`) and in `pyenv_root/versions`, by kind; the
/// first of a kind wins. Starts each Node.js once to ask for its version: blocking.
pub fn find(search_path: &OsStr, pyenv_root: Option<&Path>) -> BTreeMap<String, Interpreter> {
    let mut found = BTreeMap::new();
    let mut add = |interpreter: Option<Interpreter>| {
        if let Some(interpreter) = interpreter {
            found.entry(interpreter.kind.clone()).or_insert(interpreter);
        }
    };
    for folder in std::env::split_paths(search_path).filter(|folder| folder.is_absolute()) {
        for name in ["node", "nodejs"] {
            add(node(&folder.join(name)));
        }
        add(python(&folder.join("python3")));
        for minor in (OLDEST_PYTHON..=NEWEST_PYTHON).rev() {
            add(python(&folder.join(format!("python3.{minor}"))));
        }
    }
    let versions = pyenv_root.and_then(|root| root.join("versions").read_dir().ok()).into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin/python3")).collect();
    versions.sort();
    for program in versions.iter().rev() {
        add(python(program));
    }
    found
}

fn node(path: &Path) -> Option<Interpreter> {
    let program = real_program(path)?;
    let output = Command::new(&program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    let major: u32 = version.strip_prefix('v')?.split('.').next()?.parse().ok()?;
    Some(Interpreter { language: Language::Node, kind: format!("nodejs:{major}"), prefix: prefix(&program)?, program })
}

fn python(path: &Path) -> Option<Interpreter> {
    let program = real_program(path)?;
    // Installations keep the version in the name of the program that all others link to.
    let minor: u32 = program.file_name()?.to_str()?.strip_prefix("python3.")?.parse().ok()?;
    let kind = format!("python:3.{minor}");
    (minor >= OLDEST_PYTHON).then_some(Interpreter {
        language: Language::Python,
        kind,
        prefix: prefix(&program)?,
        program,
    })
}

/// What `path` leads to, if that is a program and no script.
fn real_program(path: &Path) -> Option<PathBuf> {
    let program = path.canonicalize().ok()?;
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut std::fs::File::open(&program).ok()?, &mut magic).ok()?;
    (magic == *b"\x7fELF").then_some(program)
}

fn prefix(program: &Path) -> Option<PathBuf> {
    program.parent()?.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    /// A program that is one, and says whatever `echo` says.
    fn program(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy("/bin/true", path).unwrap();
    }

    #[test]
    fn pythons_are_found_by_their_real_names_and_shims_are_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (shims, system, pyenv) = (root.join("shims"), root.join("usr/bin"), root.join("pyenv"));
        fs::create_dir(&shims).unwrap();
        for name in ["python3", "python3.12"] {
            fs::write(shims.join(name), "#!/bin/sh\n").unwrap();
            fs::set_permissions(shims.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        program(&system.join("python3.11"));
        symlink("python3.11", system.join("python3")).unwrap();
        for version in ["3.7", "3.11", "3.12"] {
            let bin = pyenv.join(format!("versions/{version}.1/bin"));
            program(&bin.join(format!("python{version}")));
            symlink(format!("python{version}"), bin.join("python3")).unwrap();
        }
        let path = std::env::join_paths([&shims, &system]).unwrap();
        let found = find(&path, Some(&pyenv));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["python:3.11", "python:3.12"]);
        assert_eq!(found["python:3.11"].program, system.join("python3.11"));
        assert_eq!(found["python:3.12"].prefix, pyenv.join("versions/3.12.1"));
    }

    #[test]
    fn this_machine_has_what_its_path_says() {
        let found = find(&std::env::var_os("PATH").unwrap_or_default(), None);
        for interpreter in found.values() {
            assert!(interpreter.program.is_file(), "{interpreter:?}");
        }
        assert!(found.values().any(|interpreter| interpreter.language == Language::Python), "{found:?}");
        assert!(found.values().any(|interpreter| interpreter.language == Language::Node), "{found:?}");
    }
}
