//! Functions as people write them: with packages from npm and PyPI, as large archives, compiled from three languages.

use std::sync::{Arc, Mutex, Weak};

use base64::{Engine, engine::general_purpose::STANDARD};
use cluster_tests::{
    archive::{Zip, compile, input, input_text},
    client::{ActionOptions, annotation},
    node::{self, Options, TestNode, program},
    packages, skip,
};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::json;
use sha2::{Digest, Sha256};

static SHARED: Mutex<Weak<TestNode>> = Mutex::new(Weak::new());

fn shared() -> Arc<TestNode> {
    node::shared(&SHARED, || TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options::default()))
}

#[test]
fn a_nodejs_zip_with_node_modules_renders_a_real_document() {
    let packages = match packages::npm() {
        Ok(folder) => folder.join("node_modules"),
        Err(why) => return skip("a_nodejs_zip_with_node_modules_renders_a_real_document", &why),
    };
    let node = shared();
    let api = node.api();
    let code = Zip::default()
        .file("package.json", 0o644, r#"{"name": "render", "main": "lib/render.js", "dependencies": {"marked": "*"}}"#)
        .file(
            "lib/render.js",
            0o644,
            input_text("render.js").replace("=== __dirname", "=== require('path').dirname(__dirname)"),
        )
        .folder("node_modules/marked", &packages.join("marked"))
        .code();
    api.put_action("render", "nodejs:default", &code, ActionOptions::default());

    // A change log of a few hundred headings, rendered here by the same package outside of any node.
    let document = std::fs::read_to_string(packages.join("mathjs/HISTORY.md")).expect("npm installed it");
    let script = "process.stdout.write(require('marked').marked.parse(require('fs').readFileSync(0, 'utf8')))";
    let expected = pipe("node", &["-e", script], &[("NODE_PATH", packages.as_os_str())], &document);
    assert!(expected.len() > document.len() && expected.contains("<h1"), "{}", expected.len());

    for attempt in 0..2 {
        let record = api.invoke("render", &json!({ "text": document })).expect(200);
        let result = &record["response"]["result"];
        assert_eq!(result["html"].as_str(), Some(expected.as_str()));
        assert_eq!(result["headings"], expected.matches("<h").count() - expected.matches("<hr").count());
        assert_eq!(result["folder"], true, "it runs in its own folder");
        assert_eq!(annotation(&record, "initTime").is_some(), attempt == 0, "{record}");
    }
}

#[test]
fn a_python_zip_with_a_virtual_environment_or_vendored_packages_renders_a_template() {
    let packages = match packages::python() {
        Ok(folder) => folder.join("virtualenv"),
        Err(why) => {
            return skip("a_python_zip_with_a_virtual_environment_or_vendored_packages_renders_a_template", &why);
        }
    };
    let node = shared();
    let api = node.api();
    let libraries = std::fs::read_dir(packages.join("lib"))
        .expect("virtualenv made it")
        .flatten()
        .map(|entry| entry.path().join("site-packages"))
        .find(|path| path.join("jinja2").exists())
        .expect("pip installed it");
    let base = || {
        Zip::default().file("__main__.py", 0o644, input_text("template.py")).file("parts/__init__.py", 0o644, "").file(
            "parts/greeting.py",
            0o644,
            "GREETING = 'Grüße: '\n",
        )
    };
    let with_environment = base().folder("virtualenv", &packages);
    let vendored =
        base().folder("jinja2", &libraries.join("jinja2")).folder("markupsafe", &libraries.join("markupsafe"));
    for (name, zip) in [("environment", with_environment), ("vendored", vendored)] {
        api.put_action(name, "python:default", &zip.code(), ActionOptions::default());
        let record = api.invoke(name, &json!({ "items": ["a & b", "<c>"] })).expect(200);
        assert_eq!(
            record["response"]["result"],
            json!({
                "page": "Grüße: <ul>\n  <li>1. a &amp; b</li>\n  <li>2. &lt;c&gt;</li>\n</ul>",
                "version": "3.1.6",
                "here": true,
            }),
            "{name}"
        );
    }

    let broken = base().file("virtualenv/bin/python", 0o755, "").code();
    api.put_action("broken", "python:default", &broken, ActionOptions::default());
    let record = api.invoke_to_record("broken", &json!({}));
    assert_eq!(record["response"]["status"], "action developer error");
    let logs = record["logs"].to_string();
    assert!(logs.contains("Invalid virtualenv. Zip file does not include 'activate_this.py'."), "{logs}");
}

#[test]
fn a_zip_of_20_mb_comes_back_whole_and_runs() {
    let node = shared();
    let api = node.api();
    // Noise does not compress: the archive has 20 MB.
    let mut noise = vec![0; 20 << 20];
    StdRng::seed_from_u64(20).fill_bytes(&mut noise);
    let script = "
        const { createHash } = require('crypto'), { readFileSync } = require('fs')
        exports.main = () => ({ sum: createHash('sha256').update(readFileSync('noise.bin')).digest('hex') })";
    let zip = Zip::default().file("index.js", 0o644, script).file("noise.bin", 0o644, &noise).bytes();
    assert!(zip.len() > 20 << 20);
    let code = STANDARD.encode(&zip);
    api.put_action("large", "nodejs:default", &code, ActionOptions::default());
    let stored = api.get("/actions/large").expect(200);
    assert!(stored["exec"]["code"] == code.as_str(), "the code came back changed");
    let sum: String = Sha256::digest(&noise).iter().map(|byte| format!("{byte:02x}")).collect();
    let record = api.invoke("large", &json!({})).expect(200);
    assert_eq!(record["response"]["result"], json!({ "sum": sum }));
    api.delete("/actions/large").expect(200);
}

#[test]
fn programs_compiled_from_c_rust_and_go_run_as_exec() {
    let node = shared();
    let api = node.api();
    let languages: [(&str, &str, &str, &[&str], &str); 3] = [
        ("C", "go:1.20", "cc", &["-O2", "-static"], "echo.c"),
        ("Rust", "rust:1.34", "rustc", &["--edition=2024", "-O"], "echo.rs"),
        ("Go", "go:1.20", "go", &["build"], "echo.go"),
    ];
    for (language, kind, compiler, arguments, source) in languages {
        let executable = match compile(compiler, arguments, &input(source)) {
            Ok(executable) => executable,
            // One of three is enough where a machine has no Go.
            Err(why) if language == "Go" => {
                eprintln!("not tried: {why}");
                continue;
            }
            Err(why) => {
                skip(&format!("programs_compiled_from_c_rust_and_go_run_as_exec ({language})"), &why);
                continue;
            }
        };
        let code = Zip::default().file("exec", 0o755, &executable).code();
        api.put_action(language, kind, &code, ActionOptions::default());
        for call in 1..=2 {
            let record = api.invoke_to_record(language, &json!({ "name": "you" }));
            assert_eq!(
                record["response"]["result"],
                json!({ "language": language, "greeting": "Hello, you!", "calls": call }),
                "{record}"
            );
            let logs = record["logs"].as_array().expect("records have logs");
            assert_eq!(logs.len(), 1, "{logs:?}");
            assert!(logs[0].as_str().is_some_and(|line| line.ends_with(&format!("stdout: {language} was called"))));
        }
    }
}

#[test]
fn source_that_nothing_here_compiles_is_refused_when_it_comes() {
    let node = shared();
    let api = node.api();
    for (kind, source) in [("go:default", "package main"), ("rust:1.34", "fn main() {}"), ("swift:5.7", "func main()")]
    {
        let reply = api.put("/actions/source", &json!({ "exec": { "kind": kind, "code": source } }));
        let error = reply.expect(400)["error"].as_str().expect("a text").to_owned();
        let kind = kind.replace("default", "1.20");
        assert!(error.starts_with(&format!("The source code of '{kind}' actions cannot be compiled")), "{error}");
    }
    // A script with its interpreter is an executable.
    api.put("/actions/source", &json!({ "exec": { "kind": "go:1.20", "code": "#!/bin/sh\n" } })).expect(200);
    api.delete("/actions/source").expect(200);
}

#[test]
fn a_script_runs_as_openwhisks_skeleton_runs_it() {
    let node = shared();
    let script = "#!/bin/sh\necho a line of the log\necho \"{\\\"argument\\\": $1, \\\"action\\\": \\\"$__OW_ACTION_NAME\\\"}\"\n";
    let body = json!({ "exec": { "kind": "blackbox", "image": "openwhisk/dockerskeleton", "code": script } });
    let api = node.api();
    api.put("/actions/script?overwrite=true", &body).expect(200);
    let record = api.invoke_to_record("script", &json!({ "n": 7 }));
    assert_eq!(record["response"]["result"], json!({ "argument": { "n": 7 }, "action": "/tester/script" }), "{record}");
    assert!(record["logs"][0].as_str().is_some_and(|line| line.ends_with("stdout: a line of the log")), "{record}");
}

/// Runs a program with `input` on its stdin, and returns its stdout.
fn pipe(program: &str, arguments: &[&str], env: &[(&str, &std::ffi::OsStr)], input: &str) -> String {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).expect("the program reads it"));
        let output = child.wait_with_output().expect("a child can be waited for");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("it writes text")
    })
}
