//! Answers and the lines in them.

use std::fmt::{self, Display};

use crate::{Database, NAME_LIMIT, ProtocolError, Query, Request, line, number};

/// Most lines of one answer.
pub const LINES_LIMIT: usize = 256;

/// Most bytes of a line with its end.
pub const LINE_LIMIT: usize = 1024;

/// Most bytes of a reason.
pub const REASON_LIMIT: usize = 200;

/// Most bytes of the first line of an answer.
const HEAD_LIMIT: usize = 256;

/// Most bytes of an answer.
pub const ANSWER_LIMIT: usize = HEAD_LIMIT + LINES_LIMIT * LINE_LIMIT;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwd {
    /// User name.
    pub name: String,
    /// UID.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Gecos field.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Shell.
    pub shell: String,
}

/// A group without other members than those whose primary group it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Group name.
    pub name: String,
    /// GID.
    pub gid: u32,
}

impl Display for Passwd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, uid, gid, gecos, home, shell } = self;
        write!(out, "{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}")
    }
}

impl Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:x:{}:", self.name, self.gid)
    }
}

/// What both kinds of lines have in common.
trait Line: Sized + Display {
    fn parse(text: &str) -> Option<Self>;
    fn name(&self) -> &str;
    fn id(&self) -> u32;
}

impl Line for Passwd {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(':');
        let mut next = || fields.next();
        let (name, password, uid, gid) = (next()?, next()?, next()?, next()?);
        let (gecos, home, shell) = (next()?, next()?, next()?);
        let (uid, gid) = (number(uid).ok()?, number(gid).ok()?);
        let proper = password == "x" && home.starts_with('/') && shell.starts_with('/');
        if next().is_some() || !proper || !is_line_name(name) {
            return None;
        }
        let [name, gecos, home, shell] = [name, gecos, home, shell].map(str::to_owned);
        Some(Self { name, uid, gid, gecos, home, shell })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> u32 {
        self.uid
    }
}

impl Line for Group {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(':');
        let mut next = || fields.next();
        let (name, password, gid, members) = (next()?, next()?, next()?, next()?);
        let gid = number(gid).ok()?;
        if next().is_some() || password != "x" || !members.is_empty() || !is_line_name(name) {
            return None;
        }
        Some(Self { name: name.to_owned(), gid })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> u32 {
        self.gid
    }
}

/// A name that no reader of lines takes for something else.
fn is_line_name(name: &str) -> bool {
    (1..=NAME_LIMIT).contains(&name.len())
        && !name.contains([' ', ':', ',', '/'])
        && !name.starts_with(['+', '-'])
}

/// Lines of the database that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Users.
    Passwd(Vec<Passwd>),
    /// Groups.
    Group(Vec<Group>),
}

/// What the gateway says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Proved entries.
    Found(Found),
    /// It is proved that there is none.
    Absent,
    /// Nothing is proved. Never to be taken for [`Self::Absent`].
    Unavailable {
        /// Why, for people: at most [`REASON_LIMIT`] bytes of it are sent.
        reason: String,
    },
}

impl Answer {
    /// The answer as it is sent. It is what [`Self::decode`] of this request takes, or else an error.
    ///
    /// # Errors
    /// It is no answer to this request, or a line cannot be sent.
    pub fn encode(&self, request: &Request) -> Result<String, ProtocolError> {
        let text = match self {
            Self::Found(Found::Passwd(lines)) => found(lines),
            Self::Found(Found::Group(lines)) => found(lines),
            Self::Absent => "absent\n".to_owned(),
            Self::Unavailable { reason } => format!("unavailable {}\n", one_line(reason)),
        };
        match Self::decode(request, text.as_bytes())? {
            same if same == *self || matches!(self, Self::Unavailable { .. }) => Ok(text),
            _ => Err(ProtocolError::Malformed("a field holds a separator")),
        }
    }

    /// How many bytes the answer has that begins with `bytes`; none while that cannot be told.
    ///
    /// # Errors
    /// It is over a limit, or begins like no answer.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(head) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < HEAD_LIMIT { Ok(None) } else { too_large(HEAD_LIMIT) };
        };
        let mut length = head.saturating_add(1);
        let lines = head_lines(line(bytes.get(..length).unwrap_or(bytes), HEAD_LIMIT)?)?;
        for _ in 0..lines {
            let rest = bytes.get(length..).unwrap_or_default();
            let Some(end) = rest.iter().take(LINE_LIMIT).position(|byte| *byte == b'\n') else {
                return if rest.len() < LINE_LIMIT { Ok(None) } else { too_large(LINE_LIMIT) };
            };
            length = length.saturating_add(end).saturating_add(1);
        }
        Ok(Some(length))
    }

    /// Reads a whole answer to `request`.
    ///
    /// # Errors
    /// It is none, or to another request.
    pub fn decode(request: &Request, bytes: &[u8]) -> Result<Self, ProtocolError> {
        if bytes.len() > ANSWER_LIMIT {
            return too_large(ANSWER_LIMIT);
        }
        if Self::length(bytes)? != Some(bytes.len()) {
            return Err(ProtocolError::Malformed("truncated, or followed by more"));
        }
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let head = line(lines.next().unwrap_or_default(), HEAD_LIMIT)?;
        if head == "absent" {
            return Ok(Self::Absent);
        }
        if let Some(reason) = head.strip_prefix("unavailable ") {
            return Ok(Self::Unavailable { reason: reason.to_owned() });
        }
        Ok(Self::Found(match request.database {
            Database::Passwd => Found::Passwd(read(request, lines)?),
            Database::Group => Found::Group(read(request, lines)?),
        }))
    }
}

fn too_large<T>(limit: usize) -> Result<T, ProtocolError> {
    Err(ProtocolError::TooLarge { limit })
}

/// How many lines follow the first one.
fn head_lines(head: &str) -> Result<usize, ProtocolError> {
    if let Some(count) = head.strip_prefix("found ") {
        let count = number(count)? as usize;
        return match count {
            1..=LINES_LIMIT => Ok(count),
            _ => Err(ProtocolError::Malformed("no lines, or more than 256")),
        };
    }
    match head.strip_prefix("unavailable ") {
        Some(reason) if reason.len() <= REASON_LIMIT => Ok(0),
        None if head == "absent" => Ok(0),
        _ => Err(ProtocolError::Malformed("unknown answer")),
    }
}

fn found<T: Line>(lines: &[T]) -> String {
    let mut text = format!("found {}\n", lines.len());
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}

fn one_line(reason: &str) -> String {
    let mut text = String::new();
    for character in reason.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if text.len().saturating_add(character.len_utf8()) > REASON_LIMIT {
            break;
        }
        text.push(character);
    }
    text
}

fn read<'a, T: Line>(
    request: &Request,
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<T>, ProtocolError> {
    let mut found: Vec<T> = Vec::new();
    for bytes in lines {
        let text = line(bytes, LINE_LIMIT)?;
        let entry = T::parse(text).ok_or(ProtocolError::Malformed("no line of this database"))?;
        let expected = match &request.query {
            Query::Name(name) => found.is_empty() && entry.name() == name,
            Query::Id(id) => found.is_empty() && entry.id() == *id,
            Query::List(from) => match found.last() {
                None => entry.id() >= *from,
                Some(last) => entry.id() > last.id(),
            },
        };
        if !expected {
            return Err(ProtocolError::OtherRequest);
        }
        found.push(entry);
    }
    Ok(found)
}
