//! Builds the guest programs with a cargo of their own and leaves the ELF files in `OUT_DIR`.
//!
//! The digest of an image names a VM's genesis, so equal sources must give equal bytes on every machine: the inner build
//! sees a short list of environment variables, its own flags, no path of this machine, and the locked dependencies.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages and the programs they contain.
const PROGRAMS: [(&str, &str); 5] = [
    ("quorate-counter", "counter"),
    ("quorate-kv", "kv"),
    ("quorate-registry", "registry"),
    ("quorate-stress", "stress"),
    ("quorate-uid", "uid"),
];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the inner build may see of the environment: how to find tools and dependencies, nothing that changes code.
const ENVIRONMENT: [&str; 17] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_OFFLINE",
    "CARGO_HTTP_CAINFO",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// What the images are built from, besides the services themselves, relative to the workspace.
const SOURCES: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "guest-images/guest.ld",
    "guest-images/abi/Cargo.toml",
    "guest-images/abi/src",
    "guest-images/kit/Cargo.toml",
    "guest-images/kit/src",
    "guest-images/sdk",
    "verifier/attest/Cargo.toml",
    "verifier/attest/src",
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("the package lies in the workspace")?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for (_, program) in PROGRAMS {
        let service = workspace.join("guest-images/services").join(program);
        println!("cargo::rerun-if-changed={}", service.join("Cargo.toml").display());
        println!("cargo::rerun-if-changed={}", service.join("src").display());
    }
    let target_directory = out.join("guests");
    build(workspace, &target_directory)?;
    for (_, program) in PROGRAMS {
        fs::copy(target_directory.join(TARGET).join("guest").join(program), out.join(program))?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<OsString> {
    std::env::var_os(name).ok_or_else(|| format!("cargo sets no {name}").into())
}

fn build(workspace: &Path, target_directory: &Path) -> Result<()> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.env_clear();
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            cargo.env(name, value);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(workspace, target_directory)?);
    // Incremental artefacts differ from run to run.
    cargo.env("CARGO_INCREMENTAL", "0");
    cargo.current_dir(workspace);
    cargo.args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--target-dir"]);
    cargo.arg(target_directory);
    for (package, program) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
        cargo.arg("--features").arg(format!("{package}/guest"));
    }
    match cargo.status()?.success() {
        true => Ok(()),
        false => Err("the guest programs did not build".into()),
    }
}

/// The compiler flags, separated as cargo wants them.
///
/// No flag but the path mappings may name a path: cargo makes all others part of every symbol's name. The linker script
/// is therefore relative to the workspace, where cargo runs the compiler for packages of the workspace.
fn encoded_flags(workspace: &Path, target_directory: &Path) -> Result<OsString> {
    let mut flags: Vec<OsString> = [
        "-Crelocation-model=static",
        "-Ctarget-cpu=x86-64-v3",
        "-Clinker-flavor=ld.lld",
        "-Clinker=rust-lld",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-Tguest-images/guest.ld",
        "-Clink-arg=--build-id=none",
        "-Clink-arg=-zmax-page-size=4096",
        "-Clink-arg=-zseparate-loadable-segments",
        "-Clink-arg=--no-eh-frame-hdr",
        // Feature detection would execute `cpuid`: the choice is made here. The AVX2 code belongs to x86-64-v3, so that
        // naming it leaves no detection behind.
        "--cfg=sha2_backend=\"soft\"",
        "--cfg=curve25519_dalek_backend=\"simd\"",
    ]
    .map(OsString::from)
    .into();
    for (from, to) in path_mappings(workspace, target_directory)? {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    }
    Ok(flags.join(OsStr::new("\x1f")))
}

/// Paths of this machine that panic messages would mention, and what they say instead. A later mapping wins.
fn path_mappings(workspace: &Path, target_directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = output_of(Command::new(&compiler).args(["--print", "sysroot"]))?;
    let version = output_of(Command::new(&compiler).arg("-vV"))?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let standard_library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");

    let mut mappings = vec![
        (workspace.to_owned(), "/quorate".to_owned()),
        (target_directory.to_owned(), "/target".to_owned()),
        (standard_library, format!("/rustc/{commit}")),
    ];
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .ok_or("neither CARGO_HOME nor a home directory is known")?;
    mappings.push((cargo_home.clone(), "/cargo".to_owned()));
    // The name of a registry's folder depends on how the registry is reached.
    for registry in fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten() {
        mappings.push((registry?.path(), "/crates".to_owned()));
    }
    Ok(mappings)
}

fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(format!("{command:?} failed").into()),
    }
}
