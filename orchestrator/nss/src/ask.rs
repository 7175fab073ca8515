//! One connection to the gateway, for one call, with one time limit.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use quorate_nss_protocol::{ANSWER_LIMIT, Answer, Query, Request};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};

use crate::config::Config;

/// Most lines of an enumeration: more users than a registry has.
const ENUMERATION_LIMIT: usize = 131_072;

/// Least time the kernel is asked to wait; zero would mean for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Nothing was proved: the gateway is silent, too slow, or talks nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// The gateway, for one call.
#[derive(Debug)]
pub struct Gateway {
    socket: OwnedFd,
    deadline: Instant,
}

impl Gateway {
    /// Connects to the configured gateway. The time of the whole call runs from here.
    pub fn connect() -> Result<Self, Unavailable> {
        let config = Config::load().ok_or(Unavailable)?;
        let deadline = Instant::now().checked_add(config.timeout).ok_or(Unavailable)?;
        let address = SocketAddrUnix::new(&config.socket).map_err(|_| Unavailable)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|_| Unavailable)?;
        let gateway = Self { socket, deadline };
        // A full queue of connections makes connect wait as long as a send.
        gateway.limit(Timeout::Send)?;
        loop {
            match connect(&gateway.socket, &address) {
                Ok(()) => return Ok(gateway),
                Err(Errno::INTR) => gateway.limit(Timeout::Send)?,
                Err(_) => return Err(Unavailable),
            }
        }
    }

    /// Gives the kernel what is left of the time.
    fn limit(&self, direction: Timeout) -> Result<(), Unavailable> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unavailable);
        }
        set_socket_timeout(&self.socket, direction, Some(left.max(WAIT_MIN))).map_err(|_| Unavailable)
    }

    /// Asks one question. Only an answer to it that was received whole counts.
    pub fn ask(&self, request: &Request) -> Result<Answer, Unavailable> {
        let text = request.encode().map_err(|_| Unavailable)?;
        self.send(text.as_bytes())?;
        let bytes = self.receive()?;
        match Answer::decode(request, &bytes) {
            Ok(Answer::Unavailable { .. }) | Err(_) => Err(Unavailable),
            Ok(answer) => Ok(answer),
        }
    }

    fn send(&self, mut rest: &[u8]) -> Result<(), Unavailable> {
        while !rest.is_empty() {
            self.limit(Timeout::Send)?;
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(Unavailable),
                Ok(sent) => rest = rest.get(sent..).ok_or(Unavailable)?,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Unavailable),
            }
        }
        Ok(())
    }

    fn receive(&self) -> Result<Vec<u8>, Unavailable> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            self.limit(Timeout::Recv)?;
            let (received, _) = match recv(&self.socket, &mut chunk, RecvFlags::empty()) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Unavailable),
            };
            if received == 0 || bytes.len().saturating_add(received) > ANSWER_LIMIT {
                return Err(Unavailable);
            }
            bytes.extend_from_slice(chunk.get(..received).ok_or(Unavailable)?);
            // What ends in the middle of a line is not complete, so the lines are not counted again.
            if bytes.last() == Some(&b'\n') && Answer::length(&bytes).map_err(|_| Unavailable)?.is_some() {
                return Ok(bytes);
            }
        }
    }

    /// Asks for everything, part by part, until the gateway says that nothing follows. `read` takes the lines of an answer
    /// and tells the last id among them.
    pub fn list<T>(
        &self,
        request: impl Fn(Query) -> Request,
        mut read: impl FnMut(Answer, &mut Vec<T>) -> Option<u32>,
    ) -> Result<Vec<T>, Unavailable> {
        let mut entries = Vec::new();
        let mut from = 0;
        loop {
            let last = match self.ask(&request(Query::List(from)))? {
                Answer::Absent => return Ok(entries),
                answer => read(answer, &mut entries).ok_or(Unavailable)?,
            };
            if entries.len() > ENUMERATION_LIMIT {
                return Err(Unavailable);
            }
            match last.checked_add(1) {
                Some(next) => from = next,
                None => return Ok(entries),
            }
        }
    }
}
