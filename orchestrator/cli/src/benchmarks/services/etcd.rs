//! etcd, for comparison: three processes on this machine, and a client of its protocol, which the gateway speaks too.

use std::fs::{File, create_dir_all, remove_dir_all};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::super::BenchError;
use super::super::plain::LOOPBACK;
use super::calls::{Caller, Kind};

/// Members, of which one may crash.
const MEMBERS: usize = 3;
/// Time until the first put succeeds.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Time for one call.
const CALL_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Three members. Dropping them kills them.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Child>,
    addresses: Vec<SocketAddr>,
    folder: PathBuf,
}

impl Etcd {
    /// Starts the members with data below `folder`; nothing if etcd is not installed.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(folder: &Path) -> Result<Option<Self>, BenchError> {
        create_dir_all(folder)?;
        let (clients, peers) = (free_ports()?, free_ports()?);
        let name = |index: usize| format!("etcd-{index}");
        let all = peers.iter().enumerate().map(|(index, peer)| format!("{}=http://{peer}", name(index)));
        let all = all.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (index, (client, peer)) in clients.iter().zip(&peers).enumerate() {
            let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
            let log = File::create(folder.join(format!("{}.log", name(index))))?;
            let mut command = Command::new("etcd");
            command.args([
                "--name",
                &name(index),
                "--initial-cluster",
                &all,
                "--initial-cluster-state",
                "new",
            ]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.arg("--data-dir").arg(folder.join(name(index)));
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
            match command.spawn() {
                Ok(member) => members.push(member),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(Self { members, addresses: clients, folder: folder.to_owned() }))
    }

    /// Clients with a connection each, spread over the members.
    ///
    /// # Errors
    /// A member does not answer.
    pub async fn clients(&self, count: usize) -> Result<Vec<Arc<EtcdClient>>, BenchError> {
        let mut clients = Vec::new();
        for (number, address) in (0..count).zip(self.addresses.iter().cycle()) {
            clients.push(Arc::new(EtcdClient::connect(*address, format!("/bench/{number}")).await?));
        }
        Ok(clients)
    }

    /// Ends the members and removes their data.
    ///
    /// # Errors
    /// The system's.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        for member in &mut self.members {
            member.kill().await?;
        }
        Ok(remove_dir_all(&self.folder)?)
    }
}

/// Ports that were free a moment ago.
fn free_ports() -> Result<Vec<SocketAddr>, BenchError> {
    let held = (0..MEMBERS).map(|_| TcpListener::bind(LOOPBACK)).collect::<Result<Vec<_>, _>>()?;
    Ok(held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

/// A client of etcd's protocol with a connection of its own.
#[derive(Debug)]
pub struct EtcdClient {
    channel: Channel,
    prefix: String,
}

impl EtcdClient {
    /// Waits until puts below `prefix` succeed.
    ///
    /// # Errors
    /// They do not.
    pub async fn connect(address: SocketAddr, prefix: String) -> Result<Self, BenchError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(BenchError::unexpected)?;
        let channel = endpoint.tcp_nodelay(true).timeout(CALL_LIMIT).connect_lazy();
        let client = Self { channel, prefix };
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            match client.call(Kind::Put(super::SMALL), 0).await {
                Ok(()) => return Ok(client),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(POLL).await,
            }
        }
    }

    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, BenchError>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let failed = |error: &dyn std::fmt::Display| BenchError::Unexpected(format!("{path}: {error}"));
        let deadline = Instant::now() + CALL_LIMIT;
        loop {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| failed(&error))?;
            let codec = ProstCodec::<Q, A>::default();
            let question = Request::new(question.clone());
            match grpc.unary(question, PathAndQuery::from_static(path), codec).await {
                Ok(answer) => return Ok(answer.into_inner()),
                // A member whose disk or leader is late says so. Our own clients ask again, too.
                Err(error) if error.code() == Code::Unavailable && Instant::now() < deadline => {
                    sleep(POLL).await;
                }
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    fn key(&self, bytes: usize) -> Vec<u8> {
        format!("{}/{bytes}", self.prefix).into_bytes()
    }

    async fn put(&self, bytes: usize, turn: usize) -> Result<(), BenchError> {
        let question = Put { key: self.key(bytes), value: value(bytes, turn) };
        let answer: Changed = self.ask("/etcdserverpb.KV/Put", question).await?;
        match answer.header {
            Some(Header { revision: 1.. }) => Ok(()),
            _ => Err(BenchError::unexpected("a put that has no revision")),
        }
    }

    async fn get(&self, serializable: bool) -> Result<(), BenchError> {
        let question = Range { key: self.key(super::SMALL), serializable };
        let answer: Found = self.ask("/etcdserverpb.KV/Range", question).await?;
        match answer.kvs.as_slice() {
            [found] if found.value.len() == super::SMALL => Ok(()),
            _ => Err(BenchError::unexpected("a name that was put is not there")),
        }
    }
}

impl Caller for EtcdClient {
    async fn call(&self, kind: Kind, turn: usize) -> Result<(), BenchError> {
        match kind {
            Kind::Put(bytes) => self.put(bytes, turn).await,
            Kind::Linearizable => self.get(false).await,
            Kind::Newest => self.get(true).await,
            Kind::Order(_) | Kind::First => Err(BenchError::unexpected("etcd has nothing like it")),
        }
    }
}

/// A value that differs from the one before.
pub fn value(bytes: usize, turn: usize) -> Vec<u8> {
    let mut value = turn.to_string().into_bytes();
    value.resize(bytes, b'.');
    value
}

// Of etcd's messages, what is needed here. Field numbers are etcd's.

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Changed {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Found {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn etcd_is_asked_in_its_own_protocol_or_known_to_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let Some(etcd) = Etcd::start(&folder.path().join("etcd")).await.unwrap() else {
            assert!(std::process::Command::new("etcd").arg("--version").output().is_err());
            return;
        };
        let clients = etcd.clients(2).await.unwrap();
        for kind in [Kind::Put(64), Kind::Put(1024), Kind::Linearizable, Kind::Newest] {
            clients[1].call(kind, 1).await.unwrap();
        }
        assert!(clients[0].call(Kind::First, 0).await.is_err());
        let pids: Vec<_> = etcd.members.iter().filter_map(Child::id).collect();
        assert_eq!(pids.len(), MEMBERS);
        etcd.stop().await.unwrap();
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        assert!(!folder.path().join("etcd").exists());
    }

    #[test]
    fn values_have_their_length_and_differ() {
        assert_eq!((value(64, 1).len(), value(1024, 9).len()), (64, 1024));
        assert_ne!(value(64, 1), value(64, 2));
    }
}
