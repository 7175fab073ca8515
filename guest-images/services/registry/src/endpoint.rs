//! Endpoints as a value: JSON text that people can read, with one text for each list.
//!
//! ```text
//! [{"host":"10.0.0.7","port":9090,"labels":{"job":"web"}},{"host":"db.example","port":5432,"labels":{}}]
//! ```
//!
//! No space, fields in this order, endpoints ascending by host and port, labels ascending by name. No character needs an
//! escape: hosts are IP addresses or lower-case host names, label names those of Prometheus, label values printable ASCII
//! without `"` and `\`. Labels that begin with `__` are refused, because they steer who scrapes and how.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::net::Ipv6Addr;

use crate::VALUE_BYTES_MAX;

/// Most endpoints of a service.
pub const ENDPOINTS_MAX: usize = 64;
/// Most bytes of the text of one endpoint.
pub const ENDPOINT_BYTES_MAX: usize = 512;

/// A list of endpoints that cannot be, or a value that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text departs from the one form.
    #[error("endpoints do not decode at byte {offset}")]
    Malformed {
        /// Where.
        offset: usize,
    },
    /// No IP address in its usual text and no lower-case host name.
    #[error("{host:?} is no host")]
    BadHost {
        /// What was given.
        host: String,
    },
    /// Port 0.
    #[error("port 0 is no port")]
    BadPort,
    /// A label's name or value has a character that it must not have, or the name is reserved.
    #[error("label {name:?} is refused")]
    BadLabel {
        /// Its name.
        name: String,
    },
    /// One host and port twice, or the list does not ascend.
    #[error("endpoints do not ascend")]
    Unsorted,
    /// Something is over its limit.
    #[error("{what}: {got} is over the limit of {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// What was given.
        got: usize,
    },
}

impl EndpointError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "MessageTooLarge",
            _ => "DecodeError",
        }
    }
}

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
    labels: BTreeMap<String, String>,
}

impl Endpoint {
    /// An endpoint with its labels.
    ///
    /// # Errors
    /// Host, port or a label is refused, or the text is over [`ENDPOINT_BYTES_MAX`].
    pub fn new(host: String, port: u16, labels: BTreeMap<String, String>) -> Result<Self, EndpointError> {
        if !is_host(&host) {
            return Err(EndpointError::BadHost { host });
        }
        if port == 0 {
            return Err(EndpointError::BadPort);
        }
        if let Some((name, _)) = labels.iter().find(|(name, value)| !is_label(name) || !is_label_value(value))
        {
            return Err(EndpointError::BadLabel { name: name.clone() });
        }
        let endpoint = Self { host, port, labels };
        limited("endpoint", ENDPOINT_BYTES_MAX, endpoint.to_string().len())?;
        Ok(endpoint)
    }

    /// IP address or host name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Labels by name.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { alloc::format!("[{host}]:{port}") } else { alloc::format!("{host}:{port}") }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, r#"{{"host":"{}","port":{},"labels":{{"#, self.host, self.port)?;
        for (index, (name, value)) in self.labels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, r#"{comma}"{name}":"{value}""#)?;
        }
        out.write_str("}}")
    }
}

/// The endpoints of one service, ascending by host and port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// A list in its order.
    ///
    /// # Errors
    /// One host and port twice, more than [`ENDPOINTS_MAX`], or more text than a value holds.
    pub fn new(mut endpoints: Vec<Endpoint>) -> Result<Self, EndpointError> {
        endpoints.sort();
        Self::ascending(endpoints)
    }

    fn ascending(endpoints: Vec<Endpoint>) -> Result<Self, EndpointError> {
        limited("endpoints", ENDPOINTS_MAX, endpoints.len())?;
        if endpoints.windows(2).any(|pair| (&pair[0].host, pair[0].port) >= (&pair[1].host, pair[1].port)) {
            return Err(EndpointError::Unsorted);
        }
        let endpoints = Self(endpoints);
        limited("value", VALUE_BYTES_MAX, endpoints.to_value().len())?;
        Ok(endpoints)
    }

    /// The endpoints.
    pub fn as_slice(&self) -> &[Endpoint] {
        &self.0
    }

    /// The text as a value to register.
    pub fn to_value(&self) -> Vec<u8> {
        let mut text = String::from("[");
        for (index, endpoint) in self.0.iter().enumerate() {
            // Writing into memory does not fail.
            let _ = write!(text, "{}{endpoint}", if index == 0 { "" } else { "," });
        }
        text.push(']');
        text.into_bytes()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// It is not the one text of a list of endpoints.
    pub fn from_value(value: &[u8]) -> Result<Self, EndpointError> {
        limited("value", VALUE_BYTES_MAX, value.len())?;
        let mut reader = Reader { text: value, at: 0 };
        reader.require(b"[")?;
        let mut endpoints = Vec::new();
        if reader.take(b"]") {
            reader.end()?;
            return Self::ascending(endpoints);
        }
        loop {
            limited("endpoints", ENDPOINTS_MAX, endpoints.len() + 1)?;
            endpoints.push(reader.endpoint()?);
            if reader.take(b"]") {
                reader.end()?;
                return Self::ascending(endpoints);
            }
            reader.require(b",")?;
        }
    }
}

fn limited(what: &'static str, limit: usize, got: usize) -> Result<(), EndpointError> {
    if got > limit { Err(EndpointError::TooLarge { what, limit, got }) } else { Ok(()) }
}

fn is_host(host: &str) -> bool {
    if host.contains(':') {
        return host.parse::<Ipv6Addr>().is_ok_and(|address| address.to_string() == host);
    }
    let part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&part.len())
            && part.bytes().all(allowed)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(part)
}

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.starts_with("__")
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && name.bytes().all(allowed)
}

fn is_label_value(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\')
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn malformed(&self) -> EndpointError {
        EndpointError::Malformed { offset: self.at }
    }

    fn take(&mut self, token: &[u8]) -> bool {
        let here = self.text[self.at..].starts_with(token);
        if here {
            self.at += token.len();
        }
        here
    }

    fn require(&mut self, token: &[u8]) -> Result<(), EndpointError> {
        if self.take(token) { Ok(()) } else { Err(self.malformed()) }
    }

    fn end(&self) -> Result<(), EndpointError> {
        if self.at == self.text.len() { Ok(()) } else { Err(self.malformed()) }
    }

    fn while_byte(&mut self, allowed: impl Fn(u8) -> bool) -> String {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii() && allowed(**byte)).count();
        self.at += length;
        rest[..length].iter().map(|byte| char::from(*byte)).collect()
    }

    fn string(&mut self) -> Result<String, EndpointError> {
        self.require(b"\"")?;
        let text = self.while_byte(|byte| byte != b'"' && byte != b'\\');
        self.require(b"\"")?;
        Ok(text)
    }

    fn port(&mut self) -> Result<u16, EndpointError> {
        let start = self.at;
        let digits = self.while_byte(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(port) if !digits.starts_with('0') => Ok(port),
            _ => Err(EndpointError::Malformed { offset: start }),
        }
    }

    fn endpoint(&mut self) -> Result<Endpoint, EndpointError> {
        self.require(br#"{"host":"#)?;
        let host = self.string()?;
        self.require(br#","port":"#)?;
        let port = self.port()?;
        self.require(br#","labels":{"#)?;
        let labels = self.labels()?;
        self.require(b"}")?;
        Endpoint::new(host, port, labels)
    }

    fn labels(&mut self) -> Result<BTreeMap<String, String>, EndpointError> {
        let mut labels = BTreeMap::new();
        if self.take(b"}") {
            return Ok(labels);
        }
        loop {
            let start = self.at;
            let name = self.string()?;
            if labels.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(EndpointError::Malformed { offset: start });
            }
            self.require(b":")?;
            let value = self.string()?;
            labels.insert(name, value);
            if self.take(b"}") {
                return Ok(labels);
            }
            self.require(b",")?;
        }
    }
}
