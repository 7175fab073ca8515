//! A client of the registry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Nonce, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Request, status};
use quorate_control::{Command, decode_outcome};
use quorate_host::inquiries::fresh;
use quorate_ordering::orderer::Orderer;
use quorate_registry::{Operation, Register, TXN_OPERATIONS_MAX, Txn, TxnOp, record_key};
use quorate_services::{AnswerProof, Called, Freshness, Service};
use quorate_transport::Endpoint;

use super::super::BenchError;
use super::SMALL;
use super::calls::{Caller, Kind};
use super::etcd::value;

/// Time for anything.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Entries of a range whose proof is measured.
const RANGE: u16 = 16;

/// A client with its own key, connections and memory.
pub struct RegistryClient {
    number: usize,
    key: SecretKey,
    endpoint: Endpoint,
    orderer: Orderer,
    service: Service,
    /// A service that was never created.
    nobody: ServiceId,
    /// Names put before all others so far.
    first: AtomicU64,
}

/// Bytes of proofs.
#[derive(Debug)]
pub struct ProofBytes {
    /// Names registered.
    pub names: usize,
    /// What is proved, bytes of the proof, and of the values that it is about.
    pub sizes: Vec<(&'static str, usize, usize)>,
}

impl RegistryClient {
    /// Puts a client together.
    ///
    /// # Errors
    /// No random bytes.
    pub fn new(
        number: usize,
        key: SecretKey,
        endpoint: Endpoint,
        orderer: Orderer,
        service: Service,
    ) -> Result<Self, BenchError> {
        let nobody = ServiceId::from_bytes(fresh()?);
        Ok(Self { number, key, endpoint, orderer, service, nobody, first: AtomicU64::default() })
    }

    /// Closes its connections.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }

    fn name(&self, bytes: usize) -> Vec<u8> {
        format!("/bench/{}/{bytes}", self.number).into_bytes()
    }

    async fn done(&self, operation: &Operation) -> Result<Called, BenchError> {
        let called = self.service.call(operation.op(), operation.body()).await?;
        match called.status {
            status::OK => Ok(called),
            code => Err(BenchError::Unexpected(format!("the registry refuses with status {code}"))),
        }
    }

    /// The put that nobody executes: ordered, and certified to name no service.
    async fn order(&self, bytes: usize, turn: usize) -> Result<(), BenchError> {
        let operation = put(self.name(bytes), value(bytes, turn));
        let nonce = || fresh().map(Nonce::from_bytes);
        let (op, body) = (operation.op(), operation.body());
        let call = Call { op, sequence: turn as u64, nonce: nonce()?, epoch: 0, body };
        let request = Request::sign(&self.key, self.nobody.instance(), call).encoded();
        let command = Command::CallService { service: self.nobody, request };
        let operation = command.to_operation(&self.key, self.orderer.group().id(), nonce()?);
        let ordered = self.orderer.order(&operation, LIMIT).await?;
        match decode_outcome(&ordered.outcome) {
            Ok(Err(failure)) if failure.kind() == "NotFound" => Ok(()),
            other => Err(BenchError::Unexpected(format!("a call of no service led to {other:?}"))),
        }
    }

    async fn get(&self, freshness: Freshness) -> Result<(), BenchError> {
        let read = self.service.get(&record_key(&self.name(SMALL)), freshness).await?;
        let found = read.value.ok_or_else(|| BenchError::unexpected("a name that was put is not there"))?;
        std::hint::black_box(found);
        Ok(())
    }

    /// Registers further names in their order, `from` of which are registered, but not more than `to`. Says how many are then.
    ///
    /// # Errors
    /// The registry refuses them.
    pub async fn fill(&self, from: usize, to: usize) -> Result<usize, BenchError> {
        let to = to.min(from + TXN_OPERATIONS_MAX);
        let put = |number: usize| TxnOp::Put {
            name: numbered(number),
            value: value(SMALL, number),
            lease: 0,
            previous: false,
        };
        let success = (from..to).map(put).collect();
        self.done(&Operation::Txn(Txn { compare: Vec::new(), success, failure: Vec::new() })).await?;
        Ok(to)
    }

    /// Measures the proofs of answers about names that [`Self::fill`] registered.
    ///
    /// # Errors
    /// An answer is not the one expected.
    pub async fn proofs(&self, names: usize) -> Result<ProofBytes, BenchError> {
        let size = |proof: &AnswerProof| proof.encoded().len();
        let middle = names / 2;
        let put = self.done(&put(numbered(middle), value(SMALL, middle))).await?;
        let key = record_key(&numbered(middle));
        let present = self.service.get(&key, Freshness::Linearizable).await?;
        let absent = self.service.get(&[key.as_slice(), b"x"].concat(), Freshness::Linearizable).await?;
        let last = record_key(&numbered(middle + usize::from(RANGE) - 1));
        let range = self.service.range(&key, &last, RANGE, Freshness::Linearizable).await?;
        let entries = range.value.entries.len();
        if present.value.is_none() || absent.value.is_some() || entries != usize::from(RANGE) {
            return Err(BenchError::unexpected("the registry has other names than were registered"));
        }
        let sizes = vec![
            ("a put's result", size(&put.proof), SMALL),
            ("a present name", size(&present.proof), SMALL),
            ("an absent name", size(&absent.proof), 0),
            ("all 16 names of a range", size(&range.proof), entries * SMALL),
        ];
        Ok(ProofBytes { names, sizes })
    }
}

impl Caller for RegistryClient {
    async fn call(&self, kind: Kind, turn: usize) -> Result<(), BenchError> {
        match kind {
            Kind::Put(bytes) => self.done(&put(self.name(bytes), value(bytes, turn))).await.map(drop),
            Kind::Order(bytes) => self.order(bytes, turn).await,
            Kind::First => {
                let name = before_all(self.first.fetch_add(1, Ordering::Relaxed));
                self.done(&put(name, value(SMALL, turn))).await.map(drop)
            }
            Kind::Linearizable => self.get(Freshness::Linearizable).await,
            Kind::Newest => self.get(Freshness::Newest).await,
        }
    }
}

fn put(name: Vec<u8>, value: Vec<u8>) -> Operation {
    Operation::Register(Register { name, value, lease: 0, expected: None, previous: false })
}

fn numbered(number: usize) -> Vec<u8> {
    format!("/names/{number:08}").into_bytes()
}

/// Lower than all names before it, and than all others here.
fn before_all(count: u64) -> Vec<u8> {
    format!("!{:020}", u64::MAX - count).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_names_stand_before_all_others() {
        let names: Vec<_> = (0..3).map(before_all).collect();
        assert!(names[2] < names[1] && names[1] < names[0]);
        assert!(names[0] < numbered(0) && names[0] < b"/bench/0/64".to_vec());
    }
}
