//! The programs under test, built before the first test uses them.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use quorate_cli::cluster::Programs;

const PACKAGES: [&str; 8] = [
    "quorate-host",
    "quorate-verifier",
    "quorate-orchestrator",
    "quorate-signer",
    "quorate-gateway",
    "quorate-nss",
    "quorate-cli",
    "quorate-faulty",
];
const BINARIES: [&str; 7] = [
    "quorate-host",
    "quorate-verifier",
    "quorate-orchestrator",
    "quorate-signer",
    "quorate-gateway",
    "quorate",
    "quorate-faulty",
];

static BUILT: OnceLock<Programs> = OnceLock::new();

/// The programs of this build. A test must not run against those of an older one, so they are brought up to date first,
/// unless `QUORATE_PROGRAMS` names the folder of those to test.
///
/// # Panics
/// They do not build.
pub fn programs() -> Programs {
    BUILT.get_or_init(build).clone()
}

fn build() -> Programs {
    if let Some(folder) = std::env::var_os("QUORATE_PROGRAMS") {
        return Programs::in_folder(Path::new(&folder));
    }
    let own = std::env::current_exe().expect("the running test has a path");
    // .../target/PROFILE/deps/TEST
    let folder = own.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet"]);
    command.env("CARGO_TARGET_DIR", folder.parent().unwrap_or(Path::new(".")));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    command.args(BINARIES.iter().flat_map(|binary| ["--bin", binary]));
    // The module of the C library is no program.
    command.arg("--lib");
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the programs under test do not build: {status}");
    Programs::in_folder(folder)
}
