//! Actions as archives and programs, made as users make them.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use zip::{ZipWriter, write::SimpleFileOptions};

/// A zip in the making.
pub struct Zip(ZipWriter<Cursor<Vec<u8>>>);

impl Default for Zip {
    fn default() -> Self {
        Self(ZipWriter::new(Cursor::new(Vec::new())))
    }
}

impl Zip {
    /// Adds a file. `mode`: `0o755` for programs.
    ///
    /// # Panics
    /// If the name is there already.
    #[must_use]
    pub fn file(mut self, name: &str, mode: u32, bytes: impl AsRef<[u8]>) -> Self {
        self.0.start_file(name, SimpleFileOptions::default().unix_permissions(mode)).expect("names are unique");
        self.0.write_all(bytes.as_ref()).expect("memory takes it");
        self
    }

    /// Adds the files below `folder` under `name`, links followed as `zip -r` does.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn folder(mut self, name: &str, folder: &Path) -> Self {
        let mut entries: Vec<_> = fs::read_dir(folder)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let inside = format!("{name}/{}", entry.file_name().to_string_lossy());
            if path.is_dir() {
                self = self.folder(&inside, &path);
            } else {
                let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                self = self.file(&inside, 0o644, bytes);
            }
        }
        self
    }

    /// The archive as the `code` of an action.
    ///
    /// # Panics
    /// Never: it is written to memory.
    pub fn code(self) -> String {
        STANDARD.encode(self.bytes())
    }

    /// # Panics
    /// Never: it is written to memory.
    pub fn bytes(self) -> Vec<u8> {
        self.0.finish().expect("memory takes it").into_inner()
    }
}

/// Compiles `source` with `compiler ARGUMENTS -o PROGRAM SOURCE` and returns the program; why not, if the machine
/// lacks the compiler.
///
/// # Errors
/// One line for people.
///
/// # Panics
/// If the source does not compile.
pub fn compile(compiler: &str, arguments: &[&str], source: &Path) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().expect("a folder in the temporary one");
    let program = folder.path().join("exec");
    let output = Command::new(compiler)
        .args(arguments)
        .args([Path::new("-o"), &program, source])
        .env("GOCACHE", crate::packages::cache().join("go"))
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .current_dir(folder.path())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Err(format!("there is no {compiler} here: {error}")),
    };
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(fs::read(&program).expect("the compiler wrote it"))
}

/// The source of one of our inputs.
pub fn input(name: &str) -> PathBuf {
    crate::node::inputs().join(name)
}

/// The text of one of our inputs.
///
/// # Panics
/// If it is not there.
pub fn input_text(name: &str) -> String {
    let path = input(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
