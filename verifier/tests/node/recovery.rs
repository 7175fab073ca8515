//! The host is dead: real verifiers give slots to operators, and the state to the host that was granted the VM.

use std::io::Read;
use std::time::Duration;

use quorate_attest::id::{Generation, Nonce, OperationId, Slot};
use quorate_attest::key::SecretKey;
use quorate_attest::vm::{Action, Decision, DecisionCertificate};
use quorate_guest_images::KV;
use quorate_transport::{Connection, Endpoint, Exchange, Role};
use quorate_verifier::core::measurement_of;
use quorate_verifier::protocol::*;
use quorate_vmm::state_stream::{self, Expected};
use quorate_vmm::{Execution, Image, Position};

use super::cluster::*;
use super::vm::*;

/// Verifiers that hold a VM with so much memory in use that its state does not fit into any window on the way.
struct Scene {
    cluster: Cluster,
    vm: Vm,
    processes: Vec<Process>,
    _source: Endpoint,
    source: Vec<Connection>,
}

impl Scene {
    async fn new(nonce: u8, verifiers: u16) -> Self {
        let cluster = Cluster::new();
        let vm = Vm::boot(&cluster.group, nonce);
        let endpoint = endpoint(&host_key('a'), Role::Host);
        let (mut processes, mut source) = (Vec::new(), Vec::new());
        for index in 0..verifiers {
            processes.push(Process::start(&cluster.init(index, "replayed"), index));
            let connection = connect(&endpoint, &processes[usize::from(index)]).await;
            assert_eq!(kind(&vm.ask(&connection, vm.register()).await), "(Done)");
            attested(vm.propose(&connection).await);
            source.push(connection);
        }
        let mut scene = Self { cluster, vm, processes, _source: endpoint, source };
        for _ in 0..3 {
            scene.vm.fill(80, 60_000);
            for connection in &scene.source {
                attested(scene.vm.propose(connection).await);
            }
        }
        scene
    }

    /// What the orchestrators decide when host b is to go on from the newest slot.
    fn grant(&self, change: impl FnOnce(&mut Decision)) -> DecisionCertificate {
        let head = self.vm.chain.last().unwrap();
        let mut decision = Decision {
            group: orchestrators().id(),
            epoch: orchestrators().epoch,
            vm: self.vm.id(),
            generation: Generation(1),
            operation: OperationId::from_bytes([1; 32]),
            index: 7,
            action: Action::Grant { slot: head.slot, statement: head.digest(), host: host_key('b').public() },
        };
        change(&mut decision);
        DecisionCertificate { signatures: vec![(0, decision.sign(&orchestrator_key()))], decision }
    }

    fn request(&self, grant: DecisionCertificate) -> ToVerifier {
        StateRequest { slot: self.vm.chain.last().unwrap().slot, grant }.into()
    }
}

async fn dial(key: &SecretKey, role: Role, process: &Process) -> (Endpoint, Connection) {
    let endpoint = endpoint(key, role);
    let connection = connect(&endpoint, process).await;
    (endpoint, connection)
}

async fn open(connection: &Connection, request: &ToVerifier) -> (Exchange, FromVerifier) {
    let mut exchange = connection.open().await.unwrap();
    exchange.send(request).await.unwrap();
    let first = exchange.recv::<FromVerifier>().await.unwrap().expect("an answer");
    (exchange, first)
}

/// The bytes of a state, all of them.
async fn bytes(exchange: &mut Exchange) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(answer) = exchange.recv::<FromVerifier>().await.unwrap() {
        let FromVerifier::StatePart(part) = answer else { panic!("{}", answer.name()) };
        assert!(!part.bytes.is_empty() && part.bytes.len() <= STATE_PART_BYTES_MAX);
        bytes.extend(part.bytes);
    }
    bytes
}

fn received(vm: &Vm, head: &StateHead, bytes: &[u8]) -> Execution {
    let image = Image::admit(&head.register.image).unwrap();
    let expected = Expected {
        image: &image,
        memory_bytes: MEMORY,
        measurement: measurement_of(vm.chain.last().unwrap()),
        input_log: head.input_log.clone(),
        keep_pages: false,
    };
    let mut input = bytes;
    let received = state_stream::receive(&mut input, &expected, &mut |_, _| {}).unwrap();
    assert_eq!(input.read(&mut [0]).unwrap(), 0, "nothing follows the last page");
    Execution::resume_at(received.machine, head.input_log.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn granted_host_gets_the_whole_state_while_attestation_goes_on() {
    let mut scene = Scene::new(40, 1).await;
    let (_endpoint, connection) = dial(&host_key('b'), Role::Host, &scene.processes[0]).await;
    let (mut exchange, first) = open(&connection, &scene.request(scene.grant(|_| {}))).await;
    let FromVerifier::State(head) = first else { panic!("{}: {first:?}", first.name()) };
    assert_eq!((&head.register.spec, &head.register.image[..]), (&scene.vm.spec, KV.elf));
    let granted = scene.vm.chain.last().unwrap().clone();
    assert_eq!((&head.statement, head.statements.size()), (&granted, 4));
    assert_eq!(head.history, scene.vm.chain[..3]);

    // The stream is not read yet, and the verifier signs the next slot all the same.
    let mut before = scene.vm.chain.clone();
    let next = scene.vm.next(3);
    attested(scene.vm.propose(&scene.source[0]).await);
    let bytes = bytes(&mut exchange).await;
    assert!(bytes.len() > 10 << 20, "{}", bytes.len());
    std::mem::swap(&mut before, &mut scene.vm.chain);
    let mut execution = received(&scene.vm, &head, &bytes);
    // What arrived executes the very same step.
    let body = &next.proposal.statement.body;
    execution.replay(&next.inputs, Position { inputs: body.end_input, doorbells: body.doorbells }).unwrap();
    assert_eq!(execution.cut().unwrap().pages.measurement, measurement_of(&next.proposal.statement));
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_given_to_nobody_but_the_granted_host_and_for_no_other_slot() {
    let scene = Scene::new(41, 1).await;
    let honest = scene.request(scene.grant(|_| {}));
    let (_a, source) = dial(&host_key('a'), Role::Host, &scene.processes[0]).await;
    assert_eq!(kind(&open(&source, &honest).await.1), "KeyRoleMismatch", "another host");
    let (_o, operator) = dial(&operator_key(), Role::Operator, &scene.processes[0]).await;
    assert_eq!(kind(&open(&operator, &honest).await.1), "KeyRoleMismatch", "not a host at all");

    let (_b, host) = dial(&host_key('b'), Role::Host, &scene.processes[0]).await;
    let refused = async |request: ToVerifier| kind(&open(&host, &request).await.1);
    let mut unsigned = scene.grant(|_| {});
    unsigned.signatures.clear();
    assert_eq!(refused(scene.request(unsigned)).await, "QuorumNotReached");
    let mut forged = scene.grant(|_| {});
    forged.decision.generation = Generation(2);
    assert_eq!(refused(scene.request(forged)).await, "BadSignature");
    let destination = host_key('b').public();
    let migrate = Action::Migrate { source: host_key('a').public(), destination };
    assert_eq!(refused(scene.request(scene.grant(|d| d.action = migrate))).await, "NoActivationCertificate");

    let other = StateRequest { grant: scene.grant(|_| {}), slot: Slot(1) };
    assert_eq!(refused(other.into()).await, "WrongSlot", "not the granted slot");
    let old = &scene.vm.chain[2];
    let action = Action::Grant { slot: old.slot, statement: old.digest(), host: destination };
    let old = StateRequest { grant: scene.grant(|d| d.action = action), slot: old.slot };
    assert_eq!(refused(old.into()).await, "StaleSlot", "not the newest slot");
    assert!(matches!(open(&host, &honest).await.1, FromVerifier::State(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_streamed_to_so_many_at_once_and_room_comes_back() {
    let scene = Scene::new(42, 1).await;
    let request = scene.request(scene.grant(|_| {}));
    let (_endpoint, connection) = dial(&host_key('b'), Role::Host, &scene.processes[0]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (exchange, first) = open(&connection, &request).await;
        assert!(matches!(first, FromVerifier::State(_)));
        held.push(exchange);
    }
    let (_exchange, third) = open(&connection, &request).await;
    assert_eq!(kind(&third), "QueueFull");
    // A host that goes away leaves its room to others.
    drop(held);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (mut exchange, first) = open(&connection, &request).await;
        if let FromVerifier::State(head) = first {
            received(&scene.vm, &head, &bytes(&mut exchange).await);
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", kind(&first));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_carries_a_slot_of_a_dead_host_from_one_verifier_to_another() {
    let mut scene = Scene::new(43, 2).await;
    scene.vm.next(2);
    attested(scene.vm.propose(&scene.source[0]).await);
    let newest = scene.vm.chain.last().unwrap().clone();
    scene.source.clear();

    let (_e0, first) = dial(&operator_key(), Role::Operator, &scene.processes[0]).await;
    let (_e1, second) = dial(&operator_key(), Role::Operator, &scene.processes[1]).await;
    let request = ToVerifier::SlotRequest(SlotRequest { vm: scene.vm.id(), slot: newest.slot });
    assert_eq!(kind(&scene.vm.ask(&second, request.clone()).await), "(Behind)");
    let FromVerifier::Slot(slot) = scene.vm.ask(&first, request.clone()).await else { panic!("no slot") };
    assert_eq!((&slot.proposal.statement, slot.follows), (&newest, true));
    slot.attestation.verify(&scene.cluster.group, &newest).unwrap();
    let propose = Propose { proposal: slot.proposal, inputs: slot.inputs.unwrap() };
    let answer = attested(scene.vm.ask(&second, ToVerifier::Propose(propose)).await);
    answer.attestation.verify(&scene.cluster.group, &newest).unwrap();

    // Nobody else: what clients sent is in the inputs.
    let stranger = SecretKey::from_seed([77; 32]);
    let client = endpoint(&stranger, Role::Client);
    let refused = client.connect(scene.processes[0].address, &transport_key(0).public()).await;
    assert!(refused.is_err(), "verifiers serve no clients");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_verifier_has_neither_inputs_nor_state_and_says_so() {
    let mut scene = Scene::new(44, 1).await;
    scene.source.clear();
    scene.processes.pop().unwrap().kill();
    let process = Process::start(&scene.cluster.path("verifier-0.toml"), 0);
    let (_operator, connection) = dial(&operator_key(), Role::Operator, &process).await;
    let request = ToVerifier::SlotRequest(SlotRequest { vm: scene.vm.id(), slot: Slot(3) });
    let FromVerifier::Slot(slot) = scene.vm.ask(&connection, request).await else { panic!("no slot") };
    assert_eq!((slot.inputs, slot.follows), (None, false));
    let nonce = Nonce::from_bytes([1; 16]);
    let query = ToVerifier::HeadQuery(HeadQuery { vm: scene.vm.id(), nonce });
    let FromVerifier::Head(head) = scene.vm.ask(&connection, query).await else { panic!("no head") };
    assert_eq!(head.proposal, Some(slot.proposal));
    let (_host, connection) = dial(&host_key('b'), Role::Host, &process).await;
    let request = scene.request(scene.grant(|_| {}));
    assert_eq!(kind(&open(&connection, &request).await.1), "MachineMissing");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_before_the_first_instruction_comes_from_the_image_even_after_a_restart() {
    let cluster = Cluster::new();
    let vm = Vm::boot(&cluster.group, 45);
    let process = Process::start(&cluster.init(0, "replayed"), 0);
    let (source_endpoint, source) = dial(&host_key('a'), Role::Host, &process).await;
    assert_eq!(kind(&vm.ask(&source, vm.register()).await), "(Done)");
    attested(vm.propose(&source).await);
    process.kill();
    let process = Process::start(&cluster.path("verifier-0.toml"), 0);
    let scene = Scene { cluster, vm, processes: vec![process], _source: source_endpoint, source: Vec::new() };
    let (_host, connection) = dial(&host_key('b'), Role::Host, &scene.processes[0]).await;
    let (mut exchange, first) = open(&connection, &scene.request(scene.grant(|_| {}))).await;
    let FromVerifier::State(head) = first else { panic!("{}", kind(&first)) };
    received(&scene.vm, &head, &bytes(&mut exchange).await);
}
