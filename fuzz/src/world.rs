//! A service's replica, its clients, its voters, and what must hold whatever it is fed with.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{GroupId, ImageDigest, Nonce, VmId};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::request::{MESSAGE_LIMIT, Reply, status};
use quorate_attest::service::{
    Answer, Applied, Genesis, Input, Ordered, Output, Query, ServiceSpec, StateEntry,
};
use quorate_attest::state_tree::StateTree;
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_kit::{Limits, Replica, Service, wire};

use crate::cut::Cut;
use crate::must;

/// Clients of a service; what they may do is up to its configuration.
pub const CLIENTS: u8 = 5;

const MEMORY: u64 = 16 << 20;

/// A client's request in the making.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The service.
    pub instance: VmId,
    /// Who will sign it.
    pub client: PublicKey,
    /// Its sequence number.
    pub sequence: u64,
    /// The state that it meets.
    pub tree: &'a StateTree,
}

/// A service with operations that fuzz bytes choose, and its own rules about the state.
pub trait Subject {
    /// The service.
    type Service: Service;

    /// Its configuration.
    fn config() -> Vec<u8>;

    /// Key of a client, below [`CLIENTS`].
    fn key(client: u8) -> SecretKey;

    /// Number and body of an operation.
    fn operation(cut: &mut Cut<'_>, draft: &Draft<'_>) -> (u16, Vec<u8>);

    /// Requests that the service's own generator makes of a seed; the closure executes one and gives the reply.
    fn script(seed: u64, length: usize, instance: VmId, execute: &mut dyn FnMut(Vec<u8>) -> Option<Reply>);

    /// Checks what must hold of every state. It is asked after each input, so it reads keys without looking whether they are
    /// points of the curve.
    fn check(tree: &StateTree);

    /// Checks that a client can read an entry.
    fn check_entry(key: &[u8], value: &[u8]);
}

/// What is the same in every run.
#[derive(Debug)]
pub struct World<S: Subject> {
    pub(crate) clients: Vec<SecretKey>,
    pub(crate) voters: Vec<SecretKey>,
    pub(crate) vm: VmSpec,
    pub(crate) genesis: Genesis,
    pub(crate) limits: Limits,
    /// Behind genesis.
    pub(crate) begun: Replica<S::Service>,
}

impl<S: Subject> World<S> {
    /// The smallest machine with a service, or one whose state is soon full.
    pub fn new(tight: bool) -> Self {
        let limits = must(Limits::for_machine(MEMORY, 6 << 20).ok_or("heap"));
        let limits = match tight {
            true => Limits { state_bytes: 30_000, session_bytes: 30_000, ..limits },
            false => limits,
        };
        let image = ImageDigest::from_bytes([7; 32]);
        let vm = VmSpec {
            name: "service-0".into(),
            image,
            machine_version: 1,
            memory_bytes: MEMORY,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: SecretKey::from_seed([2; 32]).public(),
            nonce: Nonce::from_bytes([0; 16]),
        };
        let spec = ServiceSpec {
            name: "service".into(),
            image,
            memory_bytes: MEMORY,
            replicas: GroupId::from_bytes([3; 32]),
            nonce: Nonce::from_bytes([0; 16]),
            config: S::config(),
        };
        let voters: Vec<SecretKey> = (10..14).map(|seed| SecretKey::from_seed([seed; 32])).collect();
        let genesis = Genesis { spec, voters: voters.iter().map(SecretKey::public).collect(), f: 1 };
        let clients = (0..CLIENTS).map(S::key).collect();
        let mut world = Self { clients, voters, vm, genesis, limits, begun: Replica::new(limits) };
        let mut begun = world.empty();
        let output = world.feed(&mut begun, &world.wrapped(&Input::Genesis(world.genesis.clone())));
        assert!(matches!(output, Some(Output::Applied(_))), "genesis is refused: {output:?}");
        world.begun = begun;
        world
    }

    /// The service's instance in requests.
    pub fn instance(&self) -> VmId {
        self.genesis.spec.id().instance()
    }

    /// A replica that knows its VM only.
    pub fn empty(&self) -> Replica<S::Service> {
        let mut replica = Replica::new(self.limits);
        assert!(replica.handle(&wire::vm_input(&self.vm)).is_empty(), "the VM is refused");
        replica
    }

    /// The bytes of a VM's input.
    pub fn wrapped(&self, input: &Input) -> Vec<u8> {
        wire::wrap(self.vm.id(), self.clients[0].public(), 1, input).encoded()
    }

    /// Feeds one input of a VM. What is refused, and every query, changes nothing.
    pub fn feed(&self, replica: &mut Replica<S::Service>, bytes: &[u8]) -> Option<Output> {
        let before = replica.clone();
        let output = replica.handle(bytes);
        assert!(output.len() <= MESSAGE_LIMIT, "output of {} bytes", output.len());
        if output.is_empty() {
            assert!(before.vm().is_none() && replica.vm().is_some(), "an input without output");
            return None;
        }
        let reply = must(Reply::decoded(&output));
        let output = match reply.status {
            status::OK => Some(must(Output::decoded(&reply.body))),
            _ => None,
        };
        match &output {
            Some(Output::Applied(applied)) => self.check_applied(&before, replica, applied),
            // An import that is refused ends; that is the only change, and before there is a state.
            Some(Output::Refused { .. }) if before.state().is_none() => assert!(replica.state().is_none()),
            _ => assert!(*replica == before, "what was refused or only asked changed the replica"),
        }
        output
    }

    fn check_applied(&self, before: &Replica<S::Service>, replica: &Replica<S::Service>, applied: &Applied) {
        assert!(replica.time_ms() >= before.time_ms(), "service time falls");
        let Some(tree) = replica.state() else { return };
        if let (Some(last), Some(_)) = (applied.executed.last(), before.state()) {
            assert_eq!(last.state, tree.commitment());
            assert_eq!(applied.first, before.next());
            assert_eq!(replica.next(), before.next() + applied.executed.len() as u64);
        }
        let replies = applied.executed.iter().map(|executed| must(Reply::decoded(&executed.reply)));
        let refused = replies.map(|reply| reply.status).all(|status| status != status::OK);
        if let Some(old) = before.state().filter(|_| refused) {
            let own = |tree: &StateTree| tree.from(&[1]).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            let (old, new): (Vec<_>, Vec<_>) = (own(old), own(tree));
            assert!(old == new, "requests that failed changed the service's entries");
        }
        S::check(tree);
    }

    /// Executes one request in its turn.
    pub fn execute(&self, replica: &mut Replica<S::Service>, request: Vec<u8>) -> Option<Reply> {
        let first = replica.next();
        let input = Input::Apply { first, requests: vec![Ordered { log_index: first, request }] };
        match self.feed(replica, &self.wrapped(&input)) {
            Some(Output::Applied(applied)) => {
                let executed = applied.executed.first().unwrap_or_else(|| panic!("one request was left out"));
                Some(must(Reply::decoded(&executed.reply)))
            }
            _ => None,
        }
    }

    /// All entries, as exports show them. Their tree has the replica's commitment.
    pub fn exported(&self, replica: &mut Replica<S::Service>) -> Vec<Vec<StateEntry>> {
        let (mut parts, mut after) = (Vec::new(), Vec::new());
        loop {
            let query = Input::Query(Query::Export { after });
            let Some(Output::Answered { answer, state, size }) = self.feed(replica, &self.wrapped(&query))
            else {
                panic!("no export")
            };
            let Answer::Entries { entries, more } = *answer else { panic!("an export is no list") };
            assert_eq!((Some(state), size), (replica.state().map(StateTree::commitment), replica.next()));
            after = entries.last().map(|last| last.key.clone()).unwrap_or_default();
            parts.push(entries);
            if !more {
                break;
            }
        }
        let all = parts.iter().flatten().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        let rebuilt = StateTree::from_sorted(all).commitment();
        assert_eq!(Some(rebuilt), replica.state().map(StateTree::commitment), "rebuilt from an export");
        parts
    }

    /// Another replica that imports this one's state: equal in everything that the log decides.
    pub fn moved(&self, replica: &mut Replica<S::Service>) -> Replica<S::Service> {
        let mut parts = self.exported(replica);
        let last = parts.pop().unwrap_or_default();
        let mut other = self.empty();
        let import = |entries, complete| {
            let (genesis, number) = (self.genesis.clone(), replica.next());
            self.wrapped(&Input::Import { genesis, number, entries, complete })
        };
        for part in parts {
            let taken = self.feed(&mut other, &import(part, None));
            assert!(matches!(taken, Some(Output::Applied(_))), "a part is refused: {taken:?}");
        }
        let taken = self.feed(&mut other, &import(last, replica.state().map(StateTree::commitment)));
        assert!(matches!(taken, Some(Output::Applied(_))), "an exported state is refused: {taken:?}");
        assert!(other == *replica, "the imported replica differs");
        other
    }
}
