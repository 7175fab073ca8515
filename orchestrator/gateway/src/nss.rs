//! Answers the NSS module: users and groups of the UID registry, over a unix socket.
//!
//! Found and absent are proved; anything else is unavailable, which the module never takes for absent.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate_nss_protocol::{
    Answer, Database, Found, Group, LINES_LIMIT, Passwd, ProtocolError, Query, REQUEST_LIMIT, Request,
};
use quorate_uid::Name;
use quorate_uid::client::User;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::backend::{Freshness, Shared};
use crate::listen::{UnixSocket, accept};
use crate::users::{UsersError, by_name, by_uid, from_uid};

/// Every program of the machine looks users up: who may is decided by the folder.
const SOCKET_MODE: u32 = 0o666;
/// Time for a program to send its next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The lookups of a machine.
#[derive(Debug)]
pub struct Lookups {
    backend: Shared,
    max_age: Duration,
    /// When a quorum was last asked, and the number that it told.
    known: Mutex<Option<(Instant, u64)>>,
}

impl Lookups {
    /// Answers from a UID registry. What is told may be `max_age` old; zero asks a quorum every time.
    #[must_use]
    pub fn new(backend: Shared, max_age: Duration) -> Self {
        Self { backend, max_age, known: Mutex::default() }
    }

    /// What is proved about a request.
    pub async fn answer(&self, request: &Request) -> Answer {
        let (freshness, asked) = (self.freshness(), Instant::now());
        match self.users(&request.query, freshness).await {
            Ok((users, number)) => {
                if freshness == Freshness::Linearizable {
                    self.learn(asked, number);
                }
                found(request.database, users)
            }
            Err(error) => {
                tracing::warn!(error_kind = error.kind(), "no answer about users: {error}");
                Answer::Unavailable { reason: format!("{}: {error}", error.kind()) }
            }
        }
    }

    async fn users(&self, query: &Query, freshness: Freshness) -> Result<(Vec<User>, u64), UsersError> {
        let backend = self.backend.as_ref();
        let (user, number) = match query {
            Query::Name(name) => match Name::new(name) {
                Ok(name) => by_name(backend, &name, freshness).await?,
                // Nobody can have it. Still, only a quorum's word makes it absent.
                Err(_) => (None, by_uid(backend, 0, freshness).await?.1),
            },
            Query::Id(uid) => by_uid(backend, *uid, freshness).await?,
            Query::List(from) => return from_uid(backend, *from, LINES_LIMIT, freshness).await,
        };
        Ok((user.into_iter().collect(), number))
    }

    fn freshness(&self) -> Freshness {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some((asked, number)) if asked.elapsed() < self.max_age => Freshness::AtLeast(number + 1),
            _ => Freshness::Linearizable,
        }
    }

    fn learn(&self, asked: Instant, number: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|(earlier, _)| earlier < asked) {
            *known = Some((asked, number));
        }
    }
}

fn found(database: Database, users: Vec<User>) -> Answer {
    if users.is_empty() {
        return Answer::Absent;
    }
    let users = users.into_iter();
    Answer::Found(match database {
        Database::Passwd => Found::Passwd(users.map(passwd).collect()),
        Database::Group => Found::Group(users.map(group).collect()),
    })
}

fn passwd(User { uid, profile }: User) -> Passwd {
    Passwd {
        name: profile.name.to_string(),
        uid: uid.get(),
        gid: uid.get(),
        gecos: profile.gecos.to_string(),
        home: profile.home.to_string(),
        shell: profile.shell.to_string(),
    }
}

fn group(User { uid, profile }: User) -> Group {
    Group { name: profile.name.to_string(), gid: uid.get() }
}

/// The socket of the module.
#[derive(Debug)]
pub struct NssListener {
    socket: UnixSocket,
    lookups: Arc<Lookups>,
}

impl NssListener {
    /// Binds the socket.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(path: &Path, lookups: Lookups) -> io::Result<Self> {
        let socket = UnixSocket::bind(path, SOCKET_MODE).await?;
        Ok(Self { socket, lookups: Arc::new(lookups) })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves until it is dropped.
    pub async fn serve(self) -> Infallible {
        accept(
            || async { self.socket.listener.accept().await.map(|(stream, _)| stream) },
            |stream, permit| {
                let lookups = Arc::clone(&self.lookups);
                async move {
                    // A program that sends nonsense is not told why; it has a module of another version.
                    if let Err(error) = converse(stream, &lookups).await {
                        tracing::debug!("NSS connection ended: {error}");
                    }
                    drop(permit);
                }
            },
        )
        .await
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConversationError {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no request for a while")]
    Idle(#[from] tokio::time::error::Elapsed),
}

async fn converse(mut stream: UnixStream, lookups: &Lookups) -> Result<(), ConversationError> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                break end + 1;
            }
            if bytes.len() >= REQUEST_LIMIT {
                return Err(ProtocolError::TooLarge { limit: REQUEST_LIMIT }.into());
            }
            let room = (REQUEST_LIMIT - bytes.len()) as u64;
            let mut some = (&mut stream).take(room);
            if tokio::time::timeout(IDLE_TIMEOUT, some.read_buf(&mut bytes)).await?? == 0 {
                return Ok(());
            }
        };
        let rest = bytes.split_off(end);
        let request = Request::decode(&bytes)?;
        bytes = rest;
        let answer = lookups.answer(&request).await;
        let answer = answer.encode(&request)?;
        // Whoever does not read what it asked for must not keep its place.
        tokio::time::timeout(IDLE_TIMEOUT, stream.write_all(answer.as_bytes())).await??;
    }
}
