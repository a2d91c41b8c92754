//! Process back ends for the tests, and code in the form in which clients send it.

use std::{
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use node::containers::backend::{
    Backend,
    process::{ProcessBackend, ProcessConfig},
    sandbox::SandboxConfig,
};
use zip::write::SimpleFileOptions;

/// The program `whisp`; somewhere else when the tests run as a user who cannot read the folder of the build.
pub fn program() -> PathBuf {
    std::env::var_os("WHISP_TEST_PROGRAM").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_whisp")), PathBuf::from)
}

/// A back end in a folder of its own.
pub struct Fixture {
    pub backend: ProcessBackend,
    kinds: Vec<String>,
    folder: tempfile::TempDir,
}

impl Fixture {
    /// As it runs in earnest.
    pub async fn start() -> Self {
        Self::with_sandbox(true).await
    }

    /// With or without the sandbox.
    pub async fn with_sandbox(sandboxed: bool) -> Self {
        Self::with(|config| config.sandbox.unsafe_no_sandbox = !sandboxed).await
    }

    /// As it runs in earnest, but for what `configure` changes.
    pub async fn with(configure: impl FnOnce(&mut ProcessConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = program();
        let mut sandbox = SandboxConfig::new(folder.path().join("sandbox"), 3233);
        sandbox.init_program = program.clone();
        let mut config = ProcessConfig::from_environment(sandbox, folder.path().join("process")).expect("a config");
        config.program = program;
        configure(&mut config);
        let backend = ProcessBackend::start(config).await.expect("a back end");
        let kinds = backend.kinds();
        Self { backend, kinds, folder }
    }

    /// A kind of this machine's Node.js, whichever version that is.
    pub fn nodejs(&self) -> &str {
        self.kinds.iter().find(|kind| kind.starts_with("nodejs:")).expect("./dev installs Node.js")
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it; whatever it made is gone afterwards.
    pub async fn stop(self) {
        self.backend.shutdown().await;
    }
}

/// `bytes` as the code of a binary action.
pub fn binary(bytes: impl AsRef<[u8]>) -> (String, bool) {
    (STANDARD.encode(bytes), true)
}

/// Plain text as the code of an action.
pub fn text(code: &str) -> (String, bool) {
    (code.to_owned(), false)
}

/// A zip with files of mode 755.
pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = SimpleFileOptions::default().unix_permissions(0o755).large_file(false);
        writer.start_file(*name, options).expect("an entry");
        writer.write_all(content).expect("its content");
    }
    writer.finish().expect("a zip").into_inner()
}

/// A tar.gz with files of mode 755.
pub fn targz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let gz = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::default());
    let mut builder = tar::Builder::new(gz);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, *content).expect("an entry");
    }
    builder.into_inner().expect("a tar").finish().expect("a gz")
}

/// Bytes that no compression makes smaller.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Runs a compiler and returns what it made at `output`.
pub fn compile(command: &mut Command, output: &Path) -> Vec<u8> {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(output).expect("the program")
}
