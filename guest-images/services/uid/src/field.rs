//! What a UID, a name and the other fields of a passwd(5) line may be. A value of these types obeys its rule.

use alloc::string::String;
use core::fmt;

use borsh::io::{Error, ErrorKind, Read, Write};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::bounded_text;

/// UIDs below this one belong to the system: two admins bind and change them.
pub const SYSTEM_END: u32 = 1000;

/// UIDs with a meaning of their own, which nobody gets: `(uid16)-1`, nobody, `(uid_t)-2` and `(uid_t)-1`.
pub const REFUSED: [u32; 4] = [65_534, 65_535, u32::MAX - 1, u32::MAX];

/// Most bytes of a name.
pub const NAME_LIMIT: usize = 32;

/// Most bytes of the gecos field.
pub const GECOS_LIMIT: usize = 128;

/// Most bytes of a path.
pub const PATH_LIMIT: usize = 255;

/// A field that breaks its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not a name a user may have.
    #[error("user name is refused: {0}")]
    Name(&'static str),
    /// Not a gecos text.
    #[error("gecos is refused: {0}")]
    Gecos(&'static str),
    /// Not a path.
    #[error("path is refused: {0}")]
    Path(&'static str),
    /// Not a UID a user may have.
    #[error("UID {0} has a meaning of its own")]
    Uid(u32),
}

impl FieldError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Name(_) => "NameInvalid",
            Self::Gecos(_) | Self::Path(_) | Self::Uid(_) => "FieldInvalid",
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Name(reason) | Self::Gecos(reason) | Self::Path(reason) => reason,
            Self::Uid(_) => "UID has a meaning of its own",
        }
    }
}

/// A UID that a user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u32);

impl Uid {
    /// Checks the number.
    ///
    /// # Errors
    /// It is one of [`REFUSED`].
    pub fn new(number: u32) -> Result<Self, FieldError> {
        if REFUSED.contains(&number) { Err(FieldError::Uid(number)) } else { Ok(Self(number)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether it belongs to the system.
    pub const fn is_system(self) -> bool {
        self.0 < SYSTEM_END
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, out)
    }
}

impl BorshSerialize for Uid {
    fn serialize<W: Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
        self.0.serialize(writer)
    }
}

impl BorshDeserialize for Uid {
    fn deserialize_reader<R: Read>(reader: &mut R) -> borsh::io::Result<Self> {
        Self::new(u32::deserialize_reader(reader)?).map_err(invalid)
    }
}

macro_rules! text_field {
    ($($(#[$meta:meta])* $name:ident[$limit:expr], $check:ident;)*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// It breaks the rule of this field.
            pub fn new(text: &str) -> Result<Self, FieldError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl BorshSerialize for $name {
            fn serialize<W: Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
                self.0.serialize(writer)
            }
        }

        impl BorshDeserialize for $name {
            fn deserialize_reader<R: Read>(reader: &mut R) -> borsh::io::Result<Self> {
                let text = bounded_text::<{ $limit }, R>(reader)?;
                $check(&text).map_err(invalid)?;
                Ok(Self(text))
            }
        }
    )* };
}

text_field! {
    /// A user name: `^[a-z_][a-z0-9_-]{0,30}[a-z0-9_$-]?$`.
    Name[NAME_LIMIT], check_name;
    /// What stands in the gecos field: at most 128 bytes without `:`, `,` and control characters. May be empty.
    Gecos[GECOS_LIMIT], check_gecos;
    /// A home directory or a shell: an absolute path of at most 255 bytes without `:` and control characters.
    Path[PATH_LIMIT], check_path;
}

fn check_name(text: &str) -> Result<(), FieldError> {
    let refuse = |reason| Err(FieldError::Name(reason));
    let (first, rest) = match text.as_bytes() {
        [] => return refuse("it is empty"),
        bytes if bytes.len() > NAME_LIMIT => return refuse("it is over 32 bytes"),
        [first, rest @ ..] => (first, rest),
    };
    if !first.is_ascii_lowercase() && *first != b'_' {
        return refuse("it begins with neither a-z nor _");
    }
    // A dollar sign is allowed only where Samba puts it.
    let rest = rest.strip_suffix(b"$").unwrap_or(rest);
    let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(byte);
    if rest.iter().all(allowed) { Ok(()) } else { refuse("it has a character outside a-z 0-9 _ -") }
}

fn check_gecos(text: &str) -> Result<(), FieldError> {
    if text.len() > GECOS_LIMIT {
        return Err(FieldError::Gecos("it is over 128 bytes"));
    }
    if text.chars().any(|c| c == ':' || c == ',' || c.is_control()) {
        return Err(FieldError::Gecos("it has a colon, a comma or a control character"));
    }
    Ok(())
}

fn check_path(text: &str) -> Result<(), FieldError> {
    if text.len() > PATH_LIMIT {
        return Err(FieldError::Path("it is over 255 bytes"));
    }
    if !text.starts_with('/') {
        return Err(FieldError::Path("it is not absolute"));
    }
    if text.chars().any(|c| c == ':' || c.is_control()) {
        return Err(FieldError::Path("it has a colon or a control character"));
    }
    Ok(())
}

fn invalid(error: FieldError) -> Error {
    Error::new(ErrorKind::InvalidData, error.reason())
}
