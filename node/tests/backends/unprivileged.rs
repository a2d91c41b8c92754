//! The contract again, in a process of a user who is not root.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::support::program;

const NOBODY: &str = "65534";

/// The tests that are run again: each begins its own back ends, with the sandbox and without.
const TESTS: [&str; 3] =
    ["nodejs::the_contract_holds", "python::the_contract_holds", "executables::the_contract_holds_for_action_loops"];

#[test]
fn the_contract_holds_for_another_user() {
    if !rustix::process::geteuid().is_root() {
        return; // then every test here is this one
    }
    // Neither the binaries nor root's temporary folder are for others to read.
    let folder = tempfile::Builder::new().prefix("whisp-nobody").tempdir_in("/tmp").expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let (tests, whisp, temporary) =
        (folder.path().join("tests"), folder.path().join("whisp"), folder.path().join("tmp"));
    // By processes of their own: while this one had a copy open for writing, a child that another test starts would inherit
    // that, and the copy could not be executed ("text file busy").
    for (from, to) in [(std::env::current_exe().expect("this program"), &tests), (program(), &whisp)] {
        assert!(Command::new("cp").arg(from).arg(to).status().expect("cp runs").success());
    }
    fs::create_dir(&temporary).expect("a folder");
    std::os::unix::fs::chown(&temporary, Some(65534), Some(65534)).expect("its owner");
    for test in TESTS {
        let output = Command::new("setpriv")
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all"])
            .arg(&tests)
            .args(["--exact", "--nocapture", test])
            .env("WHISP_TEST_PROGRAM", &whisp)
            .env("TMPDIR", &temporary)
            .env("HOME", &temporary)
            .current_dir("/")
            .output()
            .expect("setpriv");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}\n{stderr}");
        assert!(stdout.contains("1 passed"), "{stdout}");
    }
}
