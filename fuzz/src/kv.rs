//! The key-value service beside a model of it: a map, and the last request of each client.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{ABI, Call, MESSAGE_LIMIT, Reply, Request, status};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_kv::{Answer, Kv, Limits, Operation, PAGE_BYTES_MAX, Page, Refusal, op};

use crate::codec::{bounded, read};
use crate::cut::Cut;
use crate::must;

/// Inputs of one life at most.
const STEPS: usize = 32;
const CLIENTS: usize = 5;

/// What a first byte chooses; below are lives whose limits are never reached by clients alone.
mod form {
    pub const TIGHT: usize = 5;
    pub const DECODE: usize = 6;
    pub const BEFORE_GENESIS: usize = 7;
    pub const COUNT: usize = 8;
}

/// No client is ever forgotten: five replies fit.
const ROOMY: Limits =
    Limits { memory_bytes: 16 << 20, entries_max: 12, data_bytes_max: 200_000, session_bytes_max: 1 << 20 };
/// Entries, bytes and clients reach their limits at once.
const TIGHT: Limits = Limits { entries_max: 3, data_bytes_max: 2_000, session_bytes_max: 1_400, ..ROOMY };

static KEYS: LazyLock<Vec<SecretKey>> =
    LazyLock::new(|| (0..CLIENTS as u8).map(|client| SecretKey::from_seed([40 + client; 32])).collect());

static VM: LazyLock<VmSpec> = LazyLock::new(|| VmSpec {
    name: "kv".into(),
    image: ImageDigest::from_bytes([7; 32]),
    machine_version: 1,
    memory_bytes: ROOMY.memory_bytes,
    input_policy: InputPolicy::ClientSigned,
    output_policy: OutputPolicy::Certified,
    host: SecretKey::from_seed([2; 32]).public(),
    nonce: Nonce::from_bytes([0; 16]),
});

/// Feeds what the bytes choose, or decodes them.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    let form = cut.below(form::COUNT);
    if form == form::DECODE {
        return decode(&mut cut);
    }
    let limits = if form == form::TIGHT { TIGHT } else { ROOMY };
    let mut life = Life::new(limits);
    if form != form::BEFORE_GENESIS {
        life.feed(VM.encoded());
    }
    for _ in 0..STEPS {
        if cut.is_empty() {
            break;
        }
        let input = life.choose(&mut cut);
        life.feed(input);
    }
    life.again();
}

fn decode(cut: &mut Cut<'_>) {
    let (choice, number) = (cut.below(4), cut.word() % 8);
    let bytes = cut.rest();
    match choice {
        0 => {
            if let Ok(operation) = Operation::decode(number, bytes) {
                assert_eq!((operation.op(), operation.body()), (number, bytes.to_vec()));
            }
        }
        1 => {
            if let Ok(answer) = Answer::decode(number, bytes) {
                assert_eq!(answer.body(), bytes);
            }
        }
        2 => drop(bounded::<Refusal>(bytes)),
        _ => drop(read::<Page>(bytes, MESSAGE_LIMIT)),
    }
}

struct Life {
    limits: Limits,
    kv: Kv,
    model: Model,
    fed: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the service must hold.
#[derive(Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    arena: u64,
    /// The last request of each client, and its reply.
    clients: BTreeMap<[u8; 32], (Request, Vec<u8>)>,
}

impl Life {
    fn new(limits: Limits) -> Self {
        Self { limits, kv: Kv::new(limits), model: Model::default(), fed: Vec::new() }
    }

    fn choose(&self, cut: &mut Cut<'_>) -> Vec<u8> {
        match cut.below(16) {
            0 => cut.take(4096).to_vec(),
            1 => {
                let spec = VmSpec { memory_bytes: 8 << 20, ..VM.clone() };
                if cut.flag() { VM.encoded() } else { spec.encoded() }
            }
            2 => {
                let Some(index) = cut.below(256).checked_rem(self.fed.len()) else { return Vec::new() };
                let mut input = self.fed[index].0.clone();
                if let Some(place) = usize::from(cut.word()).checked_rem(input.len()).filter(|_| cut.flag()) {
                    input[place] ^= cut.byte();
                }
                input
            }
            3 => {
                let (number, body) = (cut.word(), cut.take(512).to_vec());
                self.sign(cut, number, body)
            }
            _ => {
                let operation = operation(cut);
                self.sign(cut, operation.op(), operation.body())
            }
        }
    }

    fn sign(&self, cut: &mut Cut<'_>, op: u16, body: Vec<u8>) -> Vec<u8> {
        let key = &KEYS[cut.below(CLIENTS)];
        let last = self.model.clients.get(&key.public().to_bytes()).map_or(0, |(last, _)| last.sequence);
        let sequence = match cut.byte() {
            255 => cut.number(),
            254 => last,
            _ => last.saturating_add(1),
        };
        let epoch = u64::from(cut.byte() == 255);
        Request::sign(key, VM.id(), Call { op, sequence, nonce: Nonce::from_bytes([5; 16]), epoch, body })
            .encoded()
    }

    /// Feeds an input; its output is what the model says.
    fn feed(&mut self, input: Vec<u8>) {
        let (before, clients) = (self.kv.vm(), self.kv.clients());
        let output = self.kv.apply(&input);
        assert!(output.len() <= MESSAGE_LIMIT, "output of {} bytes", output.len());
        if output.is_empty() {
            assert!(before.is_none() && self.kv.vm() == Some(VM.id()), "an input without output");
        } else if let Some(request) = authentic(&input).filter(|_| before.is_some()) {
            let reply = must(Reply::decoded(&output));
            assert_eq!(Reply::to(&request, reply.status, reply.body.clone()), reply, "of another request");
            if self.limits == ROOMY {
                self.model.take(&self.limits, request, &reply, &output);
                assert_eq!(self.kv.clients(), self.model.clients.len());
            } else {
                self.model.clients.insert(request.client.to_bytes(), (request, output.clone()));
            }
        } else {
            let refusal = must(Refusal::decoded(&output));
            assert_eq!((refusal.abi, refusal.input), (ABI, Refusal::digest(&input)));
            assert_eq!(
                (self.kv.vm(), self.kv.clients()),
                (before, clients),
                "a refused input changed something"
            );
        }
        self.fed.push((input, output));
    }

    /// Another replica that is fed alike says the same.
    fn again(&self) {
        let mut other = Kv::new(self.limits);
        for (input, output) in &self.fed {
            assert_eq!(&other.apply(input), output, "two replicas differ");
        }
        assert_eq!((other.vm(), other.clients()), (self.kv.vm(), self.kv.clients()));
    }
}

fn authentic(input: &[u8]) -> Option<Request> {
    Request::decoded(input).ok().filter(|request| request.verify(&VM.id()).is_ok())
}

impl Model {
    fn take(&mut self, limits: &Limits, request: Request, reply: &Reply, output: &[u8]) {
        let client = request.client.to_bytes();
        match self.clients.get(&client) {
            Some((last, kept)) if *last == request => {
                assert_eq!(output, kept, "another reply to the same request")
            }
            Some((last, _)) if request.sequence <= last.sequence => {
                assert_eq!((reply.status, &reply.body[..]), (status::REPLAYED, &[][..]));
            }
            _ => {
                self.execute(limits, &request, reply);
                self.clients.insert(client, (request, output.to_vec()));
            }
        }
    }

    fn execute(&mut self, limits: &Limits, request: &Request, reply: &Reply) {
        let expected = match Operation::decode(request.op, &request.body) {
            _ if request.epoch != 0 => Err(status::WRONG_EPOCH),
            Err(status) => Err(status),
            Ok(operation) => self.operate(operation, reply),
        };
        let (status, body) = match expected {
            Ok(body) => (status::OK, body),
            Err(status) => (status, Vec::new()),
        };
        assert_eq!((reply.status, &reply.body), (status, &body), "of {request:?}");
        let held: usize = self.entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(held as u64 + self.arena <= limits.data_bytes_max, "{held} bytes are held");
        assert!(self.entries.len() <= limits.entries_max);
    }

    /// What the reply must be. Whether there is room the service alone knows; where there is none, nothing changes.
    fn operate(&mut self, operation: Operation, reply: &Reply) -> Result<Vec<u8>, u16> {
        match operation {
            Operation::Get { key } => self.entries.get(&key).cloned().ok_or(status::NOT_FOUND),
            Operation::Put { key, value } => self.put(key, value, reply).map(|replaced| to_bytes(&replaced)),
            Operation::Delete { key } => {
                self.entries.remove(&key).map(|_| Vec::new()).ok_or(status::NOT_FOUND)
            }
            Operation::CompareAndSwap { key, expected, value } => {
                if self.entries.get(&key) != expected.as_ref() {
                    return Err(status::CONFLICT);
                }
                match value {
                    Some(value) => drop(self.put(key, value, reply)?),
                    None => drop(self.entries.remove(&key)),
                }
                Ok(Vec::new())
            }
            Operation::List { prefix, after, limit } => {
                self.check_page(&prefix, after.as_deref(), limit.into(), reply);
                Ok(reply.body.clone())
            }
            Operation::Fill { bytes, .. } => {
                if reply.status == status::LIMIT {
                    return Err(status::LIMIT);
                }
                self.arena = bytes / 8 * 8;
                match Answer::decode(op::FILL, &reply.body) {
                    Ok(Answer::Filled { bytes, .. }) if bytes == self.arena => Ok(reply.body.clone()),
                    answer => panic!("filled {}, but {answer:?}", self.arena),
                }
            }
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, reply: &Reply) -> Result<bool, u16> {
        let former = self.entries.get(&key).map(Vec::len);
        if reply.status == status::LIMIT {
            assert!(former.is_none_or(|former| former < value.len()), "no room for what is not longer");
            return Err(status::LIMIT);
        }
        self.entries.insert(key, value);
        Ok(former.is_some())
    }

    fn check_page(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize, reply: &Reply) {
        let Ok(Answer::Page(page)) = Answer::decode(op::LIST, &reply.body) else {
            panic!("a list is no page")
        };
        let matching: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| &key[..] > after))
            .collect();
        assert_eq!(page.more, page.entries.len() < matching.len());
        for (line, (key, value)) in page.entries.iter().zip(&matching) {
            assert_eq!((&line.key, line.value_bytes as usize), (*key, value.len()));
        }
        let bytes: usize = matching.iter().take(page.entries.len() + 1).map(|(key, _)| key.len()).sum();
        let full = page.entries.len() == limit || bytes > PAGE_BYTES_MAX;
        assert!(page.entries.len() <= limit.min(matching.len()) && (full || !page.more), "a short page");
    }
}

fn operation(cut: &mut Cut<'_>) -> Operation {
    match cut.below(8) {
        0 => Operation::Get { key: key(cut) },
        1 | 2 => Operation::Put { key: key(cut), value: value(cut) },
        3 => Operation::Delete { key: key(cut) },
        4 | 5 => Operation::CompareAndSwap {
            key: key(cut),
            expected: cut.flag().then(|| value(cut)),
            value: cut.flag().then(|| value(cut)),
        },
        6 => {
            let limit = if cut.byte() == 255 { cut.word() } else { 1 + cut.word() % 8 };
            Operation::List { prefix: key(cut), after: cut.flag().then(|| key(cut)), limit }
        }
        _ => {
            let bytes = if cut.byte() == 255 { cut.number() } else { u64::from(cut.word()) * 4 };
            Operation::Fill { bytes, seed: cut.number() }
        }
    }
}

/// Short keys of few letters, so that they meet; rarely any bytes, or many.
fn key(cut: &mut Cut<'_>) -> Vec<u8> {
    match cut.byte() {
        255 => vec![cut.byte(); 4095 + cut.below(3)],
        254 => cut.take(64).to_vec(),
        byte => (0..byte % 4).map(|_| cut.one(&[b'a', b'b', 0, 0xff])).collect(),
    }
}

fn value(cut: &mut Cut<'_>) -> Vec<u8> {
    match cut.byte() {
        255 => vec![1; 65_534 + cut.below(4)],
        254 => vec![2; usize::from(cut.word())],
        253 => cut.take(64).to_vec(),
        byte => vec![byte; usize::from(byte) % 4],
    }
}

/// Lives of every form, and messages.
pub fn seeds() -> Vec<Vec<u8>> {
    let mixed = |seed: u32| (0..400u32).map(move |at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 19) as u8);
    let mut seeds: Vec<Vec<u8>> = (0..8u32)
        .filter(|form| *form != form::DECODE as u32)
        .flat_map(|form| (0..6).map(move |seed| [form as u8].into_iter().chain(mixed(seed * 512)).collect()))
        .collect();
    // Two puts, a get, a swap, a list, a fill and the get again, as one client asks for them.
    let (a, signed) = ([1, 0], [0, 0, 0]);
    let steps: [Vec<u8>; 6] = [
        [&[4, 1][..], &a, &[2], &signed].concat(),
        [&[4, 1, 1, 1, 3], &signed[..]].concat(),
        [&[4, 0][..], &a, &signed].concat(),
        [&[4, 4][..], &a, &[1, 2, 1, 3], &signed].concat(),
        [&[4, 6, 0, 5, 0, 0, 0], &signed[..]].concat(),
        [&[4, 7, 0, 200, 0, 9], &signed[..]].concat(),
    ];
    seeds.push([&[0][..], &steps.concat(), &[2, 3, 0, 0, 0]].concat());
    let operations = [
        Operation::Put { key: b"a".to_vec(), value: b"b".to_vec() },
        Operation::CompareAndSwap { key: b"a".to_vec(), expected: None, value: Some(b"c".to_vec()) },
        Operation::List { prefix: b"a".to_vec(), after: Some(b"ab".to_vec()), limit: 9 },
        Operation::Fill { bytes: 4096, seed: 3 },
    ];
    let message = |choice: u8, number: u16, bytes: &[u8]| {
        [&[form::DECODE as u8, choice][..], &number.to_le_bytes(), bytes].concat()
    };
    seeds.extend(operations.iter().map(|operation| message(0, operation.op(), &operation.body())));
    let page = Page { entries: vec![quorate_kv::Entry { key: b"a".to_vec(), value_bytes: 7 }], more: true };
    let refusal = Refusal { abi: ABI, status: status::MALFORMED, input: [3; 32] };
    seeds.extend([
        message(3, 0, &to_bytes(&page)),
        message(1, op::LIST, &to_bytes(&page)),
        message(2, 0, &refusal.encoded()),
    ]);
    seeds
}
