//! Where the HTTP API may listen: nowhere that another machine can reach.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A loopback address or a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiAddress {
    /// TCP on the loopback interface.
    Loopback(SocketAddr),
    /// A unix socket that its owner may use.
    Unix(PathBuf),
}

impl FromStr for ApiAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path".to_owned()),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let address: SocketAddr = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
        // It has no authentication of its own: whoever reaches it is believed to be on this machine.
        if !address.ip().to_canonical().is_loopback() {
            return Err(format!("{address} is not a loopback address; use 127.0.0.1, ::1 or unix:/path"));
        }
        Ok(Self::Loopback(address))
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_api_on_an_address_that_others_can_reach_is_refused() {
        for text in
            ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "10.0.0.1:0", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"]
        {
            assert!(text.parse::<ApiAddress>().unwrap_err().contains("not a loopback address"), "{text}");
        }
        for text in ["", "localhost:80", "127.0.0.1", "unix:"] {
            assert!(text.parse::<ApiAddress>().is_err(), "{text}");
        }
        for text in ["127.0.0.1:0", "127.1.2.3:80", "[::1]:80", "unix:/run/quorate/api"] {
            assert_eq!(text.parse::<ApiAddress>().unwrap().to_string(), text);
        }
    }
}
