//! Requests.

use crate::{ProtocolError, line, number};

/// Most bytes of a name.
pub const NAME_LIMIT: usize = 255;

/// Most bytes of a request.
pub const REQUEST_LIMIT: usize = 512;

const VERSION: &str = "quorate-nss/1";

/// Which file a question would have gone to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Database {
    /// passwd(5): users.
    Passwd,
    /// group(5): groups.
    Group,
}

/// What is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// The line with this name: 1 to [`NAME_LIMIT`] bytes without control characters. It need not be one that anybody
    /// can have; the gateway knows that.
    Name(String),
    /// The line with this UID or GID.
    Id(u32),
    /// Lines from this UID or GID on.
    List(u32),
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// Which database.
    pub database: Database,
    /// What is asked.
    pub query: Query,
}

impl Request {
    /// The request as it is sent.
    ///
    /// # Errors
    /// A name that cannot be sent.
    pub fn encode(&self) -> Result<String, ProtocolError> {
        let database = match self.database {
            Database::Passwd => "passwd",
            Database::Group => "group",
        };
        Ok(match &self.query {
            Query::Name(name) => {
                check_name(name)?;
                format!("{VERSION} {database} name {name}\n")
            }
            Query::Id(id) => format!("{VERSION} {database} id {id}\n"),
            Query::List(from) => format!("{VERSION} {database} list {from}\n"),
        })
    }

    /// Reads a whole request with the end of its line.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut words = line(bytes, REQUEST_LIMIT)?.splitn(4, ' ');
        if words.next() != Some(VERSION) {
            return Err(ProtocolError::Malformed("unknown version"));
        }
        let database = match words.next() {
            Some("passwd") => Database::Passwd,
            Some("group") => Database::Group,
            _ => return Err(ProtocolError::Malformed("unknown database")),
        };
        let query = match (words.next(), words.next()) {
            (Some("name"), Some(name)) => {
                check_name(name)?;
                Query::Name(name.to_owned())
            }
            (Some("id"), Some(id)) => Query::Id(number(id)?),
            (Some("list"), Some(from)) => Query::List(number(from)?),
            _ => return Err(ProtocolError::Malformed("unknown question")),
        };
        Ok(Self { database, query })
    }
}

fn check_name(name: &str) -> Result<(), ProtocolError> {
    match name.len() {
        0 => Err(ProtocolError::Malformed("empty name")),
        1..=NAME_LIMIT if name.chars().any(char::is_control) => {
            Err(ProtocolError::Malformed("control character"))
        }
        1..=NAME_LIMIT => Ok(()),
        _ => Err(ProtocolError::TooLarge { limit: NAME_LIMIT }),
    }
}
