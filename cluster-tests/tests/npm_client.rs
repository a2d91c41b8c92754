//! The npm client `openwhisk`, unmodified, against a node; and again from inside an action.

use std::process::Command;

use cluster_tests::{
    archive::{Zip, input, input_text},
    node::{Options, TestNode, program},
    packages, skip,
};

#[test]
fn every_method_of_the_npm_client_works_outside_and_inside_an_action() {
    let packages = match packages::npm() {
        Ok(folder) => folder,
        Err(why) => return skip("every_method_of_the_npm_client_works_outside_and_inside_an_action", &why),
    };
    let node = TestNode::start(program(env!("CARGO_BIN_EXE_whisp-node")), Options::default());
    let folder = tempfile::tempdir().expect("a folder in the temporary one");
    let archive = |name: &str, script: &str, needs: &[&str]| {
        let mut zip = Zip::default()
            .file("package.json", 0o644, r#"{"name": "test-action", "version": "1.0.0", "main": "index.js"}"#)
            .file("index.js", 0o644, input_text(script));
        for package in needs {
            zip = zip.folder(&format!("node_modules/{package}"), &packages.join("node_modules").join(package));
        }
        let path = folder.path().join(name);
        std::fs::write(&path, zip.bytes()).expect("the folder is ours");
        path
    };
    let client_needs = client_closure(&packages);
    let client_needs: Vec<&str> = client_needs.iter().map(String::as_str).collect();
    let output = Command::new("node")
        .arg(input("client.js"))
        .env("NODE_PATH", packages.join("node_modules"))
        .env("API_HOST", format!("http://{}", node.address()))
        .env("API_KEY", node.key())
        .env("NAMESPACE", "tester")
        .env("ZIP", archive("renderer.zip", "render.js", &["marked"]))
        .env("CALLBACK_ZIP", archive("manager.zip", "callback.js", &client_needs))
        .output()
        .expect("node is installed, or npm would not have worked");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The client and what it depends on, as npm resolved it. All lie flat in `node_modules`.
fn client_closure(packages: &std::path::Path) -> Vec<String> {
    let mut found = vec!["openwhisk".to_owned()];
    let mut next = 0;
    while let Some(package) = found.get(next) {
        let manifest = packages.join("node_modules").join(package).join("package.json");
        let manifest = std::fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("{manifest:?}: {error}"));
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("npm wrote it");
        for dependency in manifest["dependencies"].as_object().into_iter().flat_map(|all| all.keys()) {
            if !found.contains(dependency) {
                found.push(dependency.clone());
            }
        }
        next += 1;
    }
    found
}
