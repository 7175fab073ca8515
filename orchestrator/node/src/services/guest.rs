//! The guests of this node's replicas, as the service host sees them: one VM for each image of each service, wherever it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Nonce, VmId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::request::{Call, Reply, Request, status};
use quorate_attest::service::{Input, Output};
use quorate_host::client::Patience;
use quorate_host::client::hosts::HostPeer;
use quorate_host::client::replica::{Replica, ReplicaError};

/// How long a guest is waited for before the service host looks again at what there is to do.
const PATIENCE: Patience = Patience { attempt: Duration::from_secs(5), call: Duration::from_secs(10) };

/// Why a guest gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct GuestError {
    /// Stable identifier.
    pub kind: String,
    /// For people.
    pub detail: String,
}

impl GuestError {
    /// An error of this kind.
    pub fn new(kind: &str, detail: impl ToString) -> Self {
        Self { kind: kind.to_owned(), detail: detail.to_string() }
    }
}

impl From<ReplicaError> for GuestError {
    fn from(error: ReplicaError) -> Self {
        Self::new(error.kind(), &error)
    }
}

/// An answer on its way.
pub type Answering<'a, T = Output> = Pin<Box<dyn Future<Output = Result<T, GuestError>> + Send + 'a>>;

/// The guests of one node.
pub trait Guests: fmt::Debug + Send + Sync {
    /// Feeds the guest in the VM of this name.
    fn feed<'a>(&'a self, vm: &'a str, input: &'a Input) -> Answering<'a>;
    /// Asks a fork of it, which changes nothing.
    fn query<'a>(&'a self, vm: &'a str, input: &'a Input) -> Answering<'a>;
    /// Has the VM taken back to its newest slot.
    fn rewind<'a>(&'a self, vm: &'a str) -> Answering<'a, ()>;
}

/// The VM that has a name, as far as the control plane knows.
pub type FindVm = Arc<dyn Fn(&str) -> Option<VmId> + Send + Sync>;

/// Guests in VMs that hosts run; they are followed when they migrate.
pub struct HostGuests {
    key: SecretKey,
    hosts: Vec<HostPeer>,
    find: FindVm,
    sequence: AtomicU64,
    replicas: Mutex<BTreeMap<VmId, Arc<Replica>>>,
}

impl fmt::Debug for HostGuests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostGuests").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl HostGuests {
    /// Feeds with a key that hosts know in no other role: the VMs' specifications name it.
    pub fn new(key: SecretKey, hosts: Vec<HostPeer>, find: FindVm) -> Self {
        // Rises over restarts as long as the clock does; a repeated one would at worst get another's answer, which is refused.
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        Self { key, hosts, find, sequence: AtomicU64::new(began), replicas: Mutex::default() }
    }

    fn replica(&self, name: &str) -> Result<Arc<Replica>, GuestError> {
        let vm = (self.find)(name)
            .ok_or_else(|| GuestError::new("NotFound", format!("VM {name} is not in the registry")))?;
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = replicas.get(&vm) {
            return Ok(Arc::clone(known));
        }
        let replica = Replica::new(&self.key, vm, self.hosts.clone())
            .map_err(|error| GuestError::new(error.kind(), &error))?;
        let replica = Arc::new(replica.with_patience(PATIENCE));
        replicas.insert(vm, Arc::clone(&replica));
        Ok(replica)
    }

    fn call(&self, input: &Input) -> Call {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        Call { op: 0, sequence, nonce: Nonce::ZERO, epoch: 0, body: input.encoded() }
    }
}

impl Guests for HostGuests {
    fn feed<'a>(&'a self, vm: &'a str, input: &'a Input) -> Answering<'a> {
        Box::pin(async move {
            let replica = self.replica(vm)?;
            let request = Request::sign(&self.key, replica.vm(), self.call(input));
            read(&replica.feed(&request.encoded()).await?)
        })
    }

    fn query<'a>(&'a self, vm: &'a str, input: &'a Input) -> Answering<'a> {
        Box::pin(async move {
            let replica = self.replica(vm)?;
            let request = Request::sign(&self.key, replica.vm(), self.call(input));
            let request = Request { signature: Signature::NONE, ..request };
            let queried = replica.query(&request.encoded()).await?;
            let output = queried.outputs.first();
            read(output.ok_or_else(|| GuestError::new("DecodeError", "the fork answered nothing"))?)
        })
    }

    fn rewind<'a>(&'a self, vm: &'a str) -> Answering<'a, ()> {
        Box::pin(async move { Ok(self.replica(vm)?.rewind().await?) })
    }
}

fn read(reply: &[u8]) -> Result<Output, GuestError> {
    let malformed = |error| GuestError::new("DecodeError", error);
    let reply = Reply::decoded(reply).map_err(malformed)?;
    match reply.status {
        status::OK => Output::decoded(&reply.body).map_err(malformed),
        status => Err(GuestError::new("RequestRefused", format!("the guest answered status {status}"))),
    }
}
