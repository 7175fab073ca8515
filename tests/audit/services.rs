//! Valid answers of services: replies that were ordered, and entries of a certified state.

use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{ImageDigest, Nonce, OperationId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::operation::Operation;
use quorate_attest::receipt::{Receipt, ReceiptCertificate};
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::service::{Answer, Query, ServiceReceipt, ServiceReceiptCertificate, ServiceSpec};
use quorate_attest::state_tree::StateTree;
use quorate_attest::statement::Statement;
use quorate_control::{Answer as Outcome, Command, encode_outcome};
use quorate_services::{AnswerProof, Claim};
use sha2::{Digest as _, Sha256};

use crate::rng::Rng;
use crate::valid::{World, signers};

/// How an answer is made.
#[derive(Clone)]
pub struct Answered {
    pub receipt: ServiceReceipt,
    /// Replicas that sign the receipt.
    pub signers: Vec<usize>,
    pub content: Content,
}

/// What is answered.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "one of them lives at a time")]
pub enum Content {
    Reply(Called),
    State { state: StateTree, query: Query, answer: Answer },
}

/// A request that was ordered, with everything around it.
#[derive(Clone)]
pub struct Called {
    pub request: Request,
    pub author: SecretKey,
    pub operation: Operation,
    pub order: Receipt,
    /// Orchestrators that sign the order.
    pub signers: Vec<usize>,
    pub outcome: Vec<u8>,
    pub reply: Vec<u8>,
}

/// Two services of the group.
pub fn specs(rng: &mut Rng, group: &GroupConfig) -> Vec<ServiceSpec> {
    let mut spec = |name: &str| ServiceSpec {
        name: name.into(),
        image: ImageDigest::from_bytes(rng.bytes()),
        memory_bytes: 1 << 24,
        replicas: group.id(),
        nonce: Nonce::from_bytes(rng.bytes()),
        config: rng.bytes::<5>().to_vec(),
    };
    vec![spec("uid"), spec("registry")]
}

/// What the replicas of the world's first service say about an entry, whatever it is.
pub fn receipt(rng: &mut Rng, world: &World, number: u64) -> ServiceReceipt {
    ServiceReceipt {
        group: world.group.id(),
        epoch: world.group.epoch,
        service: world.services[0].id(),
        number,
        log_index: rng.next(),
        operation: OperationId::from_bytes(rng.bytes()),
        result: rng.bytes(),
        log_root: rng.bytes(),
        log_size: number + 1,
        state: state(rng, number as usize).commitment(),
    }
}

/// A state with this many entries, some of whose keys begin alike or lie beside each other.
fn state(rng: &mut Rng, size: usize) -> StateTree {
    let mut state = StateTree::default();
    while state.len() < size {
        let key = match (rng.below(3), state.entries().last()) {
            (0, Some((last, _))) => [last, &[rng.below(3) as u8][..]].concat(),
            _ => vec![b'k', rng.next() as u8],
        };
        let value = rng.bytes::<9>()[..rng.below(10)].to_vec();
        state.put(key, value);
    }
    state
}

/// One answer of each kind by the replicas of `world`, about entry `number` or a state of that many entries.
pub fn answers(rng: &mut Rng, world: &World, orchestrators: &World, number: u64) -> Vec<Answered> {
    let mut answers = vec![reply(rng, world, orchestrators, number)];
    let state = state(rng, number as usize);
    let size = state.len();
    let keys: Vec<Vec<u8>> = state.entries().iter().map(|(key, _)| key.clone()).collect();
    let absent = absent(rng, &state);
    let mut about = vec![(Query::Head, Answer::Head)];
    about.push((Query::Get { key: absent.clone() }, Answer::Absent(state.absence(&absent).unwrap())));
    let (mut low, mut high) = (absent, self::absent(rng, &state));
    if let Some(key) = keys.get(rng.below(size.max(1))) {
        about.push((Query::Get { key: key.clone() }, Answer::Present(state.membership(key).unwrap())));
        if rng.chance(50) {
            high = key.clone();
        }
        if high < low {
            (low, high) = (high, low);
        }
    } else {
        high = [&low[..], &[1]].concat();
    }
    let range = state.range(&low, &high);
    let within = range.entries.len();
    let query = |limit| Query::Range { low: low.clone(), high: high.clone(), limit };
    about.push((
        query(within as u16 + rng.below(2) as u16),
        Answer::Range { proof: range.clone(), more: false },
    ));
    if within > 1 {
        let last = &range.entries[rng.below(within - 1)].key;
        let proof = state.range(&low, last);
        about.push((query(proof.entries.len() as u16), Answer::Range { proof, more: true }));
    }
    for (query, answer) in about {
        let mut receipt = receipt(rng, world, number);
        receipt.state = state.commitment();
        let content = Content::State { state: state.clone(), query, answer };
        answers.push(Answered { receipt, signers: replicas(rng, world), content });
    }
    answers
}

/// A key that is not in the state.
fn absent(rng: &mut Rng, state: &StateTree) -> Vec<u8> {
    loop {
        let key = vec![b'k', rng.next() as u8, 9][..1 + rng.below(3)].to_vec();
        if state.get(&key).is_none() {
            return key;
        }
    }
}

fn reply(rng: &mut Rng, world: &World, orchestrators: &World, number: u64) -> Answered {
    let service = world.services[0].id();
    let (client, author) = (SecretKey::from_seed(rng.bytes()), SecretKey::from_seed(rng.bytes()));
    let nonce = Nonce::from_bytes(rng.bytes());
    let call = Call { op: 3, sequence: rng.next(), nonce, epoch: 0, body: rng.bytes::<7>().to_vec() };
    let request = Request::sign(&client, service.instance(), call);
    let reply = Reply::to(&request, 0, rng.bytes::<11>().to_vec()).encoded();
    let command = Command::CallService { service, request: request.encoded() };
    let group = &orchestrators.group;
    let operation = command.to_operation(&author, group.id(), Nonce::from_bytes(rng.bytes()));
    let mut receipt = receipt(rng, world, number);
    let index = u64::from(u32::MAX) + number;
    let order = Receipt {
        group: group.id(),
        epoch: group.epoch,
        index,
        operation: operation.id(),
        result: [0; 32],
        log_root: rng.bytes(),
        log_size: index + 1,
        state_root: rng.bytes(),
        state_size: rng.next(),
    };
    receipt.log_index = index;
    let signers = signers(rng, orchestrators);
    let mut called = Called { request, author, operation, order, signers, outcome: Vec::new(), reply };
    called.becomes(encode_outcome(&Ok(Outcome::Numbered { service, number })));
    called.agrees(&mut receipt);
    Answered { receipt, signers: replicas(rng, world), content: Content::Reply(called) }
}

/// `f + 1` or more.
fn replicas(rng: &mut Rng, world: &World) -> Vec<usize> {
    let (need, members) = (world.group.f as usize + 1, world.votes.len());
    let count = need + rng.below(members - need + 1);
    rng.subset(count, members)
}

impl Called {
    /// The orchestrators say that this became of the operation.
    pub fn becomes(&mut self, outcome: Vec<u8>) {
        self.order.result = Sha256::digest(&outcome).into();
        self.outcome = outcome;
    }

    /// Another command of the same author; it is what the orchestrators have ordered.
    pub fn commands(&mut self, command: Vec<u8>) {
        self.operation = Operation::new(&self.author, self.operation.group, self.operation.nonce, command);
    }

    /// Orchestrators and replicas say that they mean this operation and this reply.
    pub fn agrees(&mut self, receipt: &mut ServiceReceipt) {
        self.order.operation = self.operation.id();
        receipt.operation = self.operation.id();
        receipt.result = Sha256::digest(&self.reply).into();
    }
}

impl Answered {
    /// The file.
    pub fn bytes(&self, world: &World, orchestrators: &World) -> Vec<u8> {
        let signatures = sign(&self.receipt.to_statement(), world, &self.signers);
        let certificate = ServiceReceiptCertificate { receipt: self.receipt, signatures };
        let claim = match &self.content {
            Content::Reply(called) => {
                let signatures = sign(&called.order.to_statement(), orchestrators, &called.signers);
                Claim::Reply {
                    operation: called.operation.encoded(),
                    order: ReceiptCertificate { receipt: called.order, signatures },
                    outcome: called.outcome.clone(),
                    reply: called.reply.clone(),
                }
            }
            Content::State { query, answer, .. } => {
                Claim::State { query: query.clone(), answer: answer.clone() }
            }
        };
        AnswerProof::new(certificate, claim).encoded()
    }

    /// Where the lists of signatures stand in the file, and how many each has.
    pub fn votes(&self) -> Vec<(usize, usize)> {
        let first = AnswerProof::MAGIC.len() + ServiceReceipt::LIMIT + 4;
        let mut lists = vec![(first, self.signers.len())];
        if let Content::Reply(called) = &self.content {
            let order = first + self.signers.len() * 66 + 1 + 4 + called.operation.encoded().len();
            lists.push((order + Receipt::LIMIT + 4, called.signers.len()));
        }
        lists
    }
}

fn sign(statement: &Statement, world: &World, signers: &[usize]) -> Vec<(u16, Signature)> {
    signers.iter().map(|index| (*index as u16, statement.sign(&world.votes[*index]))).collect()
}
