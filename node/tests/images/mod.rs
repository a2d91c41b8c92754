//! Small images for tests, made without a registry from what this machine has, and a client of its Docker engine that owes
//! nothing to the one under test.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

pub const SOCKET: &str = "/var/run/docker.sock";

/// Folder of the images' names. Their registry is a port where nobody listens: an attempt to pull one fails at once, and asks
/// nobody outside of this machine.
pub const FOLDER: &str = "127.0.0.1:1/whisp-test";

/// The Docker engine of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Engine;

impl Engine {
    /// Finds it, or says on one line why `test` cannot run.
    pub fn find(test: &str) -> Option<Self> {
        match Self.ask("GET", "/_ping", "", &[]) {
            Ok((200, _)) => Some(Self),
            Ok((status, body)) => {
                eprintln!("skipped: {test}: the Docker engine answers {status}: {}", String::from_utf8_lossy(&body));
                None
            }
            Err(error) => {
                eprintln!("skipped: {test}: no Docker engine answers at {SOCKET}: {error}");
                None
            }
        }
    }

    /// Status and body. HTTP/1.0, so that the body ends with the connection.
    pub fn ask(self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut connection = UnixStream::connect(SOCKET)?;
        let length = body.len();
        write!(
            connection,
            "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        )?;
        connection.write_all(body)?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        Ok((status, answer[end + 4..].to_vec()))
    }

    /// # Panics
    /// If it refuses.
    #[track_caller]
    pub fn must(self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.ask(method, path, "application/json", body.as_bytes()).expect("the engine answers");
        let text = String::from_utf8_lossy(&answer);
        assert!((200..300).contains(&status), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Containers, running or not, with the label `label` (`key` or `key=value`), as the engine lists them.
    pub fn containers(self, label: &str) -> Vec<Value> {
        let filters = serde_json::json!({"label": [label]}).to_string().replace('"', "%22");
        let found = self.must("GET", &format!("/containers/json?all=1&filters={filters}"), &Value::Null);
        found.as_array().cloned().unwrap_or_default()
    }
}

/// An image of the engine; removed with this value.
#[derive(Debug)]
pub struct Image {
    /// With a tag that no other test uses.
    pub name: String,
}

impl Image {
    /// Imports `files` with `changes`, lines as of a Dockerfile.
    ///
    /// # Panics
    /// If the engine refuses.
    pub fn import(engine: Engine, files: &[u8], changes: &[&str]) -> Self {
        let (tag, name) = new_name();
        let changes: String = changes.iter().map(|change| format!("&changes={}", encode(change))).collect();
        let path = format!("/images/create?fromSrc=-&repo={FOLDER}/image&tag={tag}{changes}");
        let (status, answer) = engine.ask("POST", &path, "application/x-tar", files).expect("the engine answers");
        let answer = String::from_utf8_lossy(&answer);
        assert!(status == 200 && !answer.contains("\"error\""), "{status} {answer}");
        Self { name }
    }

    /// One that serves with this machine's Python.
    pub fn python(engine: Engine) -> Self {
        Self::import(engine, &python_files(), &[r#"CMD ["/python3", "-I", "-S", "/server.py"]"#])
    }

    /// One that serves with `program`.
    pub fn compiled(engine: Engine, program: &Path) -> Self {
        Self::import(engine, &program_files(program), &[r#"CMD ["/server"]"#])
    }

    /// One that serves with this machine's Node.js.
    pub fn nodejs(engine: Engine) -> Self {
        Self::import(engine, &nodejs_files(), &[r#"CMD ["/bin/node", "/server.js"]"#])
    }

    /// The same with another environment: what `server.js` does wrong.
    ///
    /// # Panics
    /// If the engine refuses.
    pub fn behaving(&self, engine: Engine, behave: &str) -> Self {
        let (tag, name) = new_name();
        let container = engine.must("POST", "/containers/create", &serde_json::json!({"Image": self.name}));
        let id = container["Id"].as_str().expect("an id");
        let changes = encode(&format!("ENV BEHAVE={behave}"));
        let path = format!("/commit?container={id}&repo={FOLDER}/image&tag={tag}&changes={changes}");
        engine.must("POST", &path, &Value::Null);
        engine.must("DELETE", &format!("/containers/{id}"), &Value::Null);
        Self { name }
    }
}

/// A tag that no other image has, and the name with it.
fn new_name() -> (String, String) {
    static IMAGES: AtomicUsize = AtomicUsize::new(0);
    let tag = format!("t{}-{}", std::process::id(), IMAGES.fetch_add(1, Ordering::Relaxed));
    let name = format!("{FOLDER}/image:{tag}");
    (tag, name)
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

impl Drop for Image {
    fn drop(&mut self) {
        // Also if a test failed; then a container may still use it.
        if let Err(error) = Engine.ask("DELETE", &format!("/images/{}?force=1", self.name), "", &[]) {
            eprintln!("image {} is left: {error}", self.name);
        }
    }
}

/// A root file system with Node.js and `server.js`.
fn nodejs_files() -> Vec<u8> {
    let node = on_path("node").or_else(|| on_path("nodejs")).expect("./dev installs Node.js");
    let mut files = Files::default();
    files.add_program(&node, "bin/node");
    files.add_scripts_of_nodejs(&node);
    files.add("server.js", include_bytes!("server.js"), 0o644);
    files.finish()
}

/// A root file system with the system's Python, of it what `server.py` needs.
fn python_files() -> Vec<u8> {
    // Version managers put scripts on the path; the program itself knows where it is, and what it loads.
    let script = "import json, os, socket, sys, traceback, encodings.idna, unicodedata\n\
                  print(sys.executable)\n\
                  for m in list(sys.modules.values()):\n    f = getattr(m, '__file__', None)\n    f and print(f)";
    let program =
        ["/usr/bin/python3".into()].into_iter().chain(on_path("python3")).find(|path: &PathBuf| path.is_file());
    let program = program.expect("./dev installs Python");
    let output = Command::new(program).args(["-I", "-S", "-c", script]).output().expect("Python runs");
    let text = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let mut paths = text.lines().map(Path::new);
    let executable = paths.next().expect("its own path");
    let mut files = Files::default();
    for path in [executable].into_iter().chain(paths) {
        files.add_program(path, path.strip_prefix("/").expect("absolute"));
    }
    files.link("python3", executable);
    files.add("server.py", include_bytes!("server.py"), 0o644);
    files.finish()
}

/// A root file system with `program` alone, as `/server`.
pub fn program_files(program: &Path) -> Vec<u8> {
    let mut files = Files::default();
    files.add_program(program, "server");
    files.finish()
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What `command` prints, in words.
fn words_of(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

/// A root file system as a tar.
struct Files {
    tar: tar::Builder<Vec<u8>>,
    added: Vec<PathBuf>,
}

impl Default for Files {
    fn default() -> Self {
        let mut files = Self { tar: tar::Builder::new(Vec::new()), added: Vec::new() };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o1777);
        files.tar.append_data(&mut header, "tmp/", io::empty()).expect("a folder");
        files
    }
}

impl Files {
    fn add(&mut self, name: impl AsRef<Path>, content: &[u8], mode: u32) {
        let name = name.as_ref();
        if self.added.iter().any(|added| added == name) {
            return;
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        self.tar.append_data(&mut header, name, content).expect("an entry");
        self.added.push(name.to_owned());
    }

    /// The file `from` as `name`, and the libraries that it loads.
    fn add_program(&mut self, from: &Path, name: impl AsRef<Path>) {
        self.add(name, &fs::read(from).expect("a file"), 0o755);
        for path in words_of(Command::new("ldd").arg(from)).iter().filter(|word| word.starts_with('/')) {
            let path = Path::new(path.trim_end_matches(':'));
            if path != from {
                self.add_as_it_is(path);
            }
        }
    }

    /// Debian's Node.js keeps a part of itself in scripts whose paths are in its library.
    fn add_scripts_of_nodejs(&mut self, program: &Path) {
        const SCRIPTS: &str = "/usr/share/nodejs/[A-Za-z0-9_./-]+[.]js";
        let libraries = words_of(Command::new("ldd").arg(program));
        let node = libraries.into_iter().filter(|path| path.contains("/libnode.so")).map(PathBuf::from);
        for file in node.chain([program.to_owned()]) {
            for script in words_of(Command::new("grep").args(["-aoE", SCRIPTS]).arg(file)) {
                // Some are of what is not needed, and not installed with it.
                if Path::new(&script).is_file() {
                    self.add_as_it_is(Path::new(&script));
                }
            }
        }
    }

    fn add_as_it_is(&mut self, path: &Path) {
        self.add(path.strip_prefix("/").expect("absolute"), &fs::read(path).expect("a file"), 0o755);
    }

    fn link(&mut self, name: &str, to: &Path) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        self.tar.append_link(&mut header, name, to).expect("a link");
    }

    fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("a tar in memory")
    }
}
