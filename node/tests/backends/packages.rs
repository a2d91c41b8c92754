//! Real packages from the registries, in the archives that their users would send.

use std::{path::Path, process::Command, time::Duration};

use node::runtime::InitVerdict;
use protocol::ByteSize;
use serde_json::{Value, json};

use crate::{
    suite::{ABNORMAL_INIT, ABNORMAL_RUN, Running, Subject},
    support::{Fixture, binary, zip},
};

const LONG: Duration = Duration::from_secs(60);

/// Every file below `folder`, by its path from there.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below it").to_str().expect("UTF-8").to_owned();
                found.push((name, std::fs::read(&path).expect("a file")));
            }
        }
    }
    found
}

fn archive(folder: &Path) -> (String, bool) {
    let files = files(folder);
    let entries: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    binary(zip(&entries))
}

fn install(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

async fn run(kind: impl Fn(&Fixture) -> &str, code: &(String, bool), arguments: Value) -> Value {
    let fixture = Fixture::start().await;
    let subject = Subject {
        backend: &fixture.backend,
        kind: kind(&fixture),
        image: None,
        memory: ByteSize::mib(256),
        code: &|_| None,
        limits_memory: true,
        exited: ABNORMAL_RUN,
        exited_in_init: ABNORMAL_INIT,
    };
    let mut running = Running::start(&subject).await;
    let verdict = running.init(code, LONG).await;
    assert_eq!(verdict, InitVerdict::Initialized, "{:?}", running.failed_logs().await);
    let finished = running.run(arguments).await;
    let result = finished.result();
    running.destroy().await;
    fixture.stop().await;
    result
}

#[tokio::test]
async fn npm_packages_render_a_document_and_calculate() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).expect("a file");
    write("package.json", r#"{"name": "report", "version": "1.0.0", "main": "report.js"}"#);
    write(
        "report.js",
        "const { marked } = require('marked'); const { evaluate } = require('mathjs');
         exports.main = ({ text, formula }) => ({ html: marked.parse(text), value: evaluate(formula) })",
    );
    install(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--silent", "marked@12", "mathjs@12"])
            .current_dir(&folder),
    );
    let document = include_str!("../../../LICENSE");
    let text = format!("# The licence\n\n{document}\n\n- one\n- **two**\n");
    let result =
        run(Fixture::nodejs, &archive(folder.path()), json!({"text": text, "formula": "sqrt(3^2 + 4^2)"})).await;
    assert_eq!(result["value"], json!(5));
    let html = result["html"].as_str().expect("HTML");
    assert!(html.starts_with("<h1>The licence</h1>"), "{html}");
    assert!(html.contains("<strong>two</strong>") && html.contains("TERMS AND CONDITIONS"), "{html}");
}

#[tokio::test]
async fn vendored_python_packages_render_a_template() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = "from jinja2 import Environment\n\
        def main(args):\n    \
            page = Environment(autoescape=True).from_string(args['template'])\n    \
            return {'page': page.render(items=args['items'])}\n";
    std::fs::write(folder.path().join("__main__.py"), code).expect("a file");
    // Debian's Python has no pip of its own.
    let tools = tempfile::tempdir().expect("a folder");
    install(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(tools.path()));
    install(
        Command::new(tools.path().join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target"])
            .arg(folder.path())
            .arg("jinja2==3.1.4"),
    );
    let template = "{% for item in items %}<li>{{ loop.index }} {{ item }}</li>{% endfor %}";
    let arguments = json!({"template": template, "items": ["é", "<b>"]});
    let result = run(|_| "python:3.11", &archive(folder.path()), arguments).await;
    assert_eq!(result, json!({"page": "<li>1 é</li><li>2 &lt;b&gt;</li>"}));
}
