//! C2SP checkpoints ([c2sp.org/tlog-checkpoint]): the text form of a log's head.
//!
//! Three lines: origin, size, root. Extension lines are kept when a checkpoint of others is read, because they are under
//! its signatures, but mean nothing here and are never written.
//!
//! [c2sp.org/tlog-checkpoint]: https://c2sp.org/tlog-checkpoint

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};

use crate::merkle::Digest;
use crate::note::{NoteError, malformed};

/// Head of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Digest,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint of `origin`, which is one line without spaces and `+`.
    pub fn new(origin: &str, size: u64, root: Digest) -> Result<Self, NoteError> {
        let refused = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if origin.is_empty() || origin.contains(refused) {
            return Err(malformed("checkpoint", "origin is empty or has a space, control character or +"));
        }
        Ok(Self { origin: origin.to_string(), size, root, extensions: Vec::new() })
    }

    /// Reads the text of a checkpoint note.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let body = text.strip_suffix('\n').ok_or(malformed("checkpoint", "does not end in a newline"))?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(malformed("checkpoint", "has fewer than three lines"));
        };
        if origin.is_empty() {
            return Err(malformed("checkpoint", "origin is empty"));
        }
        let size = parse_decimal(size).ok_or(malformed("checkpoint", "size is not a canonical decimal"))?;
        let root = parse_digest(root).ok_or(malformed("checkpoint", "root is not base64 of 32 bytes"))?;
        let extensions: Vec<String> = lines.map(str::to_string).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(malformed("checkpoint", "extension line is empty"));
        }
        Ok(Self { origin: origin.to_string(), size, root, extensions })
    }

    /// The note text, with its final newline.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, Base64::encode_string(&self.root));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Name of the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root over all leaves.
    pub fn root(&self) -> &Digest {
        &self.root
    }

    /// Extension lines, without meaning.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// A number without sign and leading zeros.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// 32 bytes in standard base64.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    let mut digest = [0u8; 32];
    match Base64::decode(text, &mut digest) {
        Ok(bytes) if bytes.len() == 32 => Some(digest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "quorate.example/uid\n7\nQXeVAbvRI4jeT9lMS8JxInZ3cnpJdirNvoJufTAahNU=\n";

    #[test]
    fn test_checkpoint_vector_of_the_specification() {
        let checkpoint = Checkpoint::parse(TEXT).unwrap();
        assert_eq!((checkpoint.origin(), checkpoint.size()), ("quorate.example/uid", 7));
        assert_eq!(
            crate::id::to_hex(checkpoint.root()),
            "41779501bbd12388de4fd94c4bc271227677727a49762acdbe826e7d301a84d5"
        );
        assert_eq!(checkpoint.to_text(), TEXT);
        let made = Checkpoint::new("quorate.example/uid", 7, *checkpoint.root()).unwrap();
        assert_eq!(made, checkpoint);
    }

    #[test]
    fn test_extension_lines_are_kept_under_the_signature() {
        let text = alloc::format!("{TEXT}extension 1\nanother\n");
        let checkpoint = Checkpoint::parse(&text).unwrap();
        assert_eq!(checkpoint.extensions(), ["extension 1", "another"]);
        assert_eq!(checkpoint.to_text(), text);
    }

    #[test]
    fn test_checkpoint_that_is_not_canonical_is_refused() {
        let root = "QXeVAbvRI4jeT9lMS8JxInZ3cnpJdirNvoJufTAahNU=";
        let cases = [
            alloc::format!("o\n7\n{root}"),
            alloc::format!("\n7\n{root}\n"),
            alloc::format!("o\n07\n{root}\n"),
            alloc::format!("o\n+7\n{root}\n"),
            alloc::format!("o\n-1\n{root}\n"),
            alloc::format!("o\n\n{root}\n"),
            alloc::format!("o\n18446744073709551616\n{root}\n"),
            alloc::format!("o\n7\n{}\n", &root[..43]),
            alloc::format!("o\n7\n{}V=\n", &root[..42]),
            alloc::format!("o\n7\n{root}\n\n"),
            "o\n7\n".into(),
            "o\n7\nAAAA\n".into(),
            "".into(),
        ];
        for text in cases {
            assert_eq!(
                Checkpoint::parse(&text).map_err(|error| error.kind()),
                Err("DecodeError"),
                "{text:?}"
            );
        }
        assert!(Checkpoint::parse(&alloc::format!("o\n18446744073709551615\n{root}\n")).is_ok());
        for origin in ["", "a b", "a+b", "a\nb"] {
            assert!(Checkpoint::new(origin, 0, [0; 32]).is_err(), "{origin:?}");
        }
    }
}
