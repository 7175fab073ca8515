//! Where the gateway listens and how long it may take. A file says so, and nothing else does.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_nss_protocol::DEFAULT_SOCKET;

/// The file. Fixed when the module is built, so that no program it is loaded into can choose another one.
const FILE: &str = match option_env!("QUORATE_NSS_CONFIG") {
    Some(path) => path,
    None => "/etc/quorate/nss.conf",
};

/// Most bytes of the file.
const FILE_LIMIT: u64 = 4096;

/// Most bytes of the path of a unix socket, by the kernel's rule.
const SOCKET_LIMIT: usize = 107;

const TIMEOUT_MS: u64 = 3000;
const TIMEOUT_MS_MIN: u64 = 50;
const TIMEOUT_MS_MAX: u64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub socket: PathBuf,
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), timeout: Duration::from_millis(TIMEOUT_MS) }
    }
}

impl Config {
    /// What the file says; none if it cannot be read or understood. Without a file it is the default.
    pub fn load() -> Option<Self> {
        let file = match File::open(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Some(Self::default()),
            Err(_) => return None,
        };
        let mut text = String::new();
        let read = file.take(FILE_LIMIT.saturating_add(1)).read_to_string(&mut text).ok()?;
        if read as u64 > FILE_LIMIT { None } else { Self::parse(&text) }
    }

    /// Lines `socket = PATH` and `timeout_ms = NUMBER`, each at most once; empty ones and those with `#` say nothing.
    fn parse(text: &str) -> Option<Self> {
        let (mut socket, mut timeout) = (None, None);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once('=')?;
            let value = value.trim();
            let before = match name.trim() {
                "socket" => socket.replace(value).is_some(),
                "timeout_ms" => timeout.replace(value).is_some(),
                _ => return None,
            };
            if before {
                return None;
            }
        }
        let mut config = Self::default();
        if let Some(path) = socket {
            let proper = Path::new(path).is_absolute() && path.len() <= SOCKET_LIMIT;
            config.socket = proper.then(|| path.into())?;
        }
        if let Some(timeout) = timeout {
            let milliseconds: u64 = timeout.parse().ok()?;
            let proper = (TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&milliseconds);
            config.timeout = proper.then(|| Duration::from_millis(milliseconds))?;
        }
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_file_overrides_the_defaults_it_names() {
        assert_eq!(Config::parse(""), Some(Config::default()));
        assert_eq!(Config::default().socket, Path::new("/run/quorate/nss.sock"));
        let config = Config::parse("# gateway\nsocket = /run/other.sock\n\n timeout_ms=250 \n").unwrap();
        assert_eq!(config.socket, Path::new("/run/other.sock"));
        assert_eq!(config.timeout, Duration::from_millis(250));
    }

    #[test]
    fn test_file_that_does_not_parse_is_no_configuration() {
        for bad in [
            "socket",
            "socket =",
            "socket = relative",
            "timeout_ms = 0",
            "timeout_ms = 10001",
            "timeout_ms = x",
            "sockets = /run/x",
            "socket = /a\nsocket = /b",
            &format!("socket = /{}", "x".repeat(107)),
        ] {
            assert_eq!(Config::parse(bad), None, "{bad:?}");
        }
    }
}
