//! Key files: one Ed25519 seed in lower-case hexadecimal, readable by its owner only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use quorate_attest::id::{from_hex, to_hex};
use quorate_attest::key::SecretKey;
use zeroize::Zeroizing;

/// Bytes of a key file: 64 digits and a line feed.
const TEXT_BYTES: usize = 65;
/// Mode bits that let somebody else read or replace a key.
const FOREIGN_BITS: u32 = 0o077;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others may read or write it.
    #[error("{} has mode {mode:04o}: a key file must be readable by its owner only (chmod 600)", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is no seed.
    #[error("{} is not 64 hexadecimal digits and a line feed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl KeyFileError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooOpen { .. } => "KeyFileTooOpen",
            Self::Io { .. } => "KeyFileUnreadable",
            Self::Malformed { .. } => "KeyFileInvalid",
        }
    }

    /// Exit code of a process that meets this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooOpen { .. } => crate::exit::NOT_PERMITTED,
            _ => crate::exit::CONFIGURATION,
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Reads a key. The permissions are those of the file that is open, not of whatever has the name later.
///
/// # Errors
/// `KeyFileTooOpen`, `KeyFileUnreadable`, `KeyFileInvalid`.
pub fn read(path: &Path) -> Result<SecretKey, KeyFileError> {
    let file = File::open(path).map_err(|e| KeyFileError::io(path, e))?;
    let mode = file.metadata().map_err(|e| KeyFileError::io(path, e))?.mode() & 0o7777;
    if mode & FOREIGN_BITS != 0 {
        return Err(KeyFileError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES + 1));
    file.take(TEXT_BYTES as u64 + 1).read_to_string(&mut text).map_err(|e| KeyFileError::io(path, e))?;
    let malformed = || KeyFileError::Malformed { path: path.to_owned() };
    let digits = text.strip_suffix('\n').ok_or_else(malformed)?;
    let seed = Zeroizing::new(from_hex::<32>("seed", digits).map_err(|_| malformed())?);
    Ok(SecretKey::from_seed(*seed))
}

/// Writes a key to a new file; an existing one is never replaced.
///
/// # Errors
/// `KeyFileUnreadable`, also when the file exists.
pub fn write(path: &Path, key: &SecretKey) -> Result<(), KeyFileError> {
    let text = Zeroizing::new(to_hex(key.to_seed().as_slice()) + "\n");
    let put = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    put().map_err(|e| KeyFileError::io(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write as put};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn key_survives_the_file_and_is_written_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.key");
        let key = SecretKey::from_seed([7; 32]);
        write(&path, &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().public(), key.public());
        assert_eq!(
            write(&path, &key).unwrap_err().kind(),
            "KeyFileUnreadable",
            "an existing key is not replaced"
        );
    }

    #[test]
    fn key_file_readable_by_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.key");
        write(&path, &SecretKey::from_seed([7; 32])).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o622, 0o601] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), ("KeyFileTooOpen", 77), "{mode:o}");
        }
    }

    #[test]
    fn malformed_key_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.key");
        let good = "0a".repeat(32);
        let bad = [
            String::new(),
            good.clone(),
            format!("{good}\n\n"),
            format!("{}\n", good.to_uppercase()),
            format!("{good}0a\n"),
        ];
        for text in bad {
            put(&path, &text).unwrap();
            set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(read(&path).unwrap_err().kind(), "KeyFileInvalid", "{text:?}");
        }
    }
}
