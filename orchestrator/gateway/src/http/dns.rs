//! DNS service records (RFC 2782) of registered endpoints, as lines of a zone file.
//!
//! ```text
//! eu/web -> [{"host":"10.0.0.7","port":80,"labels":{"weight":"5"}}]
//!
//! _web._tcp.eu.example.org. 30 IN SRV 0 5 80 ip-10-0-0-7.example.org.
//! ip-10-0-0-7.example.org. 30 IN A 10.0.0.7
//! ```
//!
//! The last part of a name between slashes is the service, the parts before it are subdomains, the nearest first. The labels
//! `proto`, `priority` and `weight` of an endpoint stand for what they mean in the record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use quorate_registry::Record;
use quorate_registry::endpoint::{Endpoint, Endpoints};

/// Longest name of the DNS as text, without the dot at its end.
const NAME_MAX: usize = 253;
/// Longest time to live that the DNS knows.
const TTL_MAX: u32 = i32::MAX as u32;

/// A zone that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No lower-case domain name.
    #[error("{zone:?} is no domain of lower-case letters, digits, hyphens and dots")]
    BadZone {
        /// What was given.
        zone: String,
    },
    /// Over the DNS' limit.
    #[error("a time to live of {ttl} is over {TTL_MAX}")]
    BadTtl {
        /// What was given.
        ttl: u32,
    },
}

/// Where the records stand and how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    ttl: u32,
}

impl Zone {
    /// A zone, with or without the dot at its end.
    ///
    /// # Errors
    /// It is no domain, or the time to live is too long.
    pub fn new(zone: &str, ttl: u32) -> Result<Self, ZoneError> {
        let name = zone.strip_suffix('.').unwrap_or(zone);
        if name.is_empty() || name.len() > NAME_MAX || !name.split('.').all(is_label) {
            return Err(ZoneError::BadZone { zone: zone.chars().take(NAME_MAX).collect() });
        }
        if ttl > TTL_MAX {
            return Err(ZoneError::BadTtl { ttl });
        }
        Ok(Self { name: name.to_owned(), ttl })
    }

    /// Lines for all records whose value is a list of endpoints and whose name, behind the prefix, can stand in the DNS. The
    /// others are counted in a comment at the end.
    #[must_use]
    pub fn lines(&self, records: &BTreeMap<Vec<u8>, Record>, prefix: &[u8]) -> String {
        let (mut lines, mut addresses, mut left_out) = (String::new(), BTreeSet::new(), 0_usize);
        for (name, record) in records {
            let behind = name.strip_prefix(prefix).unwrap_or(name);
            let (Some(owner), Ok(endpoints)) = (self.owner(behind), Endpoints::from_value(&record.value))
            else {
                left_out += 1;
                continue;
            };
            for endpoint in endpoints.as_slice() {
                match self.record(&owner, endpoint, &mut addresses) {
                    Some(line) => lines.push_str(&line),
                    None => left_out += 1,
                }
            }
        }
        lines.extend(addresses);
        if left_out > 0 {
            // Writing into memory does not fail.
            let _ = writeln!(lines, "; {left_out} names or endpoints have no place in the DNS");
        }
        lines
    }

    /// Service and subdomains of a name.
    fn owner(&self, name: &[u8]) -> Option<(String, String)> {
        let name = std::str::from_utf8(name).ok()?.trim_matches('/');
        let mut parts: Vec<&str> = name.split('/').collect();
        if !parts.iter().all(|part| is_label(part)) {
            return None;
        }
        let service = parts.pop()?.to_owned();
        // RFC 6335: a service has at most 15 characters; DNS itself has room for 62 behind the underscore.
        parts.reverse();
        parts.push(&self.name);
        (service.len() < 63).then(|| (service, parts.join(".")))
    }

    fn record(
        &self,
        (service, domain): &(String, String),
        endpoint: &Endpoint,
        addresses: &mut BTreeSet<String>,
    ) -> Option<String> {
        let label = |name: &str| endpoint.labels().get(name).map(String::as_str);
        let number = |name: &str| label(name).map_or(Some(0_u16), |text| text.parse().ok());
        let proto = label("proto").unwrap_or("tcp");
        let owner = format!("_{service}._{proto}.{domain}");
        if !matches!(proto, "tcp" | "udp" | "sctp") || owner.len() > NAME_MAX {
            return None;
        }
        let (priority, weight) = (number("priority")?, number("weight")?);
        let (ttl, port) = (self.ttl, endpoint.port());
        let target = match endpoint.host().parse::<IpAddr>() {
            Ok(address) => {
                let target = self.address_name(&address)?;
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                addresses.insert(format!("{target}. {ttl} IN {kind} {address}\n"));
                target
            }
            Err(_) => endpoint.host().to_owned(),
        };
        Some(format!("{owner}. {ttl} IN SRV {priority} {weight} {port} {target}.\n"))
    }

    /// The target of a service record must be a name: addresses get one.
    fn address_name(&self, address: &IpAddr) -> Option<String> {
        let digits = match address {
            IpAddr::V4(address) => address.octets().map(|octet| octet.to_string()).join("-"),
            IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
        };
        let name = format!("ip-{digits}.{}", self.name);
        (name.len() <= NAME_MAX).then_some(name)
    }
}

fn is_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
