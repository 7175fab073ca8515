//! The built module, a program that uses it, and a gateway that says what a test wants.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use quorate_nss_protocol::Request;
use tempfile::TempDir;

/// The time limit the tests configure: long enough for a busy machine, short enough to wait for.
const TIMEOUT_MS: u64 = 2000;

/// How often the build is repeated when another process of these tests built in between.
const ATTEMPTS: usize = 5;

struct Built {
    folder: TempDir,
}

/// The module with a configuration file of its own, because the path of that file is fixed when it is built.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        build_module(folder.path());
        build_program(folder.path());
        Built { folder }
    })
}

fn build_module(folder: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nss-module");
    let config = folder.join("nss.conf");
    let needle = config.to_str().unwrap().as_bytes();
    for _ in 0..ATTEMPTS {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .env("QUORATE_NSS_CONFIG", &config)
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the module did not build");
        let module = std::fs::read(target.join("release/libnss_quorate.so")).unwrap();
        if module.windows(needle.len()).any(|window| window == needle) {
            std::fs::write(folder.join("libnss_quorate.so.2"), module).unwrap();
            return;
        }
    }
    panic!("other processes keep building the module");
}

fn build_program(folder: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/module/program.c");
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-o"])
        .arg(folder.join("program"))
        .args([source, "-ldl"])
        .status();
    match compiled {
        Ok(status) => assert!(status.success(), "cc does not compile {source}"),
        Err(error) => panic!(
            "THERE IS NO C COMPILER: the NSS module can only be tested by a C program. Install `cc` (gcc or clang): {error}"
        ),
    }
}

/// One test at a time: they share the module's configuration file.
pub struct Bench {
    folder: &'static Path,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// With a configuration that names the socket of this bench, at which nobody listens.
    pub fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Self { folder: built().folder.path(), _alone: alone };
        let _ = std::fs::remove_file(bench.socket());
        bench.configure(&format!("socket = {}\ntimeout_ms = {TIMEOUT_MS}\n", bench.socket().display()));
        bench
    }

    pub fn configure(&self, text: &str) {
        std::fs::write(self.folder.join("nss.conf"), text).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("nss.sock")
    }

    /// Serves one connection after the other with `conduct` until the process ends.
    pub fn serve(&self, conduct: impl Fn(UnixStream) + Send + 'static) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        thread::spawn(move || listener.incoming().for_each(|stream| conduct(stream.unwrap())));
    }

    /// Serves answers, whatever bytes they are.
    pub fn answer(&self, answer: impl Fn(&Request) -> Vec<u8> + Send + 'static) {
        self.serve(move |mut stream| {
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
                let request = Request::decode(&line).expect("the module sends well-formed requests");
                // The module may have had enough.
                if stream.write_all(&answer(&request)).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }

    pub fn program(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.folder.join("program"));
        let output = self.run(command.args(arguments));
        assert!(output.status.success(), "{arguments:?} ended with {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn run(&self, command: &mut Command) -> Output {
        command.env("LD_LIBRARY_PATH", self.folder).output().expect("the program starts")
    }
}
