//! Verifiers that lie about the state, over real connections, with the state of a real guest.

use std::net::SocketAddr;
use std::sync::Mutex;

use quorate_attest::group::{GroupConfig, Member};
use quorate_attest::id::{InputRoot, Nonce, OutputRoot, Slot, StatementDigest};
use quorate_attest::key::SecretKey;
use quorate_attest::vm::{InputPolicy, SlotStatement, VmSpec};
use quorate_guest_images::KV;
use quorate_transport::{Endpoint, Limits, Members, Role};
use quorate_verifier::protocol::StatePart;
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::image::Image;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::state_stream;

use super::*;
use crate::link::{Link, VerifierPeer};
use crate::tests::fixture::{attestation, group, recovery, source, statement};

/// What a verifier answers.
type Script = Vec<FromVerifier>;

/// A VM at slot 0, and what an honest verifier says about it.
struct Scene {
    wanted: Wanted,
    head: StateHead,
    stream: Vec<u8>,
    /// Where the pages begin in the stream.
    pages_at: usize,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let group = group(4, 1);
        let image = Image::admit(KV.elf).unwrap();
        let spec = VmSpec {
            image: image.digest(),
            input_policy: InputPolicy::Any,
            nonce: Nonce::from_bytes([3; 16]),
            ..crate::tests::fixture::spec()
        };
        let mut execution = Execution::genesis(&image, spec.memory_bytes).unwrap();
        let measured = execution.cut().unwrap().pages.measurement;
        let pages = PageSnapshot::of_machine(execution.machine());
        let checkpoint = Checkpoint::take(&mut execution, &measured, &pages).unwrap();
        let mut statement = statement(&group, 0, 0);
        statement.vm = spec.id();
        let body = &mut statement.body;
        body.image = spec.image;
        (body.page_root, body.page_count) = (measured.page_root, measured.page_count);
        (body.cpu, body.device, body.doorbells) =
            (measured.cpu, measured.device, measured.position.doorbells);
        let nothing = Frontier::<Sha256Tree>::new().root();
        body.input_root = InputRoot::from_bytes(nothing);
        body.output_root = OutputRoot::from_bytes(nothing);
        body.previous = StatementDigest::ZERO;
        let mut stream = Vec::new();
        state_stream::send(&mut stream, &checkpoint, None).unwrap();
        let pages = pages.tree().nonzero().count() * 4096;
        Self::with(group, spec, statement, stream, pages)
    }

    fn with(
        group: GroupConfig,
        spec: VmSpec,
        statement: SlotStatement,
        stream: Vec<u8>,
        pages: usize,
    ) -> Self {
        let mut statements = Frontier::new();
        statements.push(&statement_leaf(&statement));
        let head = StateHead {
            register: Register { spec, image: KV.elf.to_vec() },
            statement: statement.clone(),
            certificate: None,
            input_log: Frontier::new(),
            statements,
            history: Vec::new(),
            activation: None,
        };
        let attestations = [0, 1, 2].map(|index| attestation(&statement, index)).to_vec();
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            group: crate::tests::fixture::chain(&group),
            grant: recovery(&group, 0).grant,
            certificate: SlotCertificate { statement, attestations },
            path: folder.path().join("vm").join("pulled"),
        };
        let pages_at = stream.len() - pages;
        Self { wanted, head, stream, pages_at, _folder: folder }
    }

    fn script(&self, head: StateHead, stream: &[u8]) -> Script {
        let parts = stream.chunks(1 << 20).map(|bytes| StatePart { bytes: bytes.to_vec() }.into());
        [head.into()].into_iter().chain(parts).collect()
    }

    fn honest(&self) -> Script {
        self.script(self.head.clone(), &self.stream)
    }

    fn with_head(&self, change: impl FnOnce(&mut StateHead)) -> Script {
        let mut head = self.head.clone();
        change(&mut head);
        self.script(head, &self.stream)
    }

    fn with_byte(&self, at: usize) -> Script {
        let mut stream = self.stream.clone();
        stream[at] ^= 1;
        self.script(self.head.clone(), &stream)
    }

    /// Asks one verifier after the other; answers what came, and what was wrong with whom.
    async fn take(&self, scripts: Vec<Script>) -> (Result<HandedOut, Refused>, Vec<(u16, Refused)>) {
        let key = source();
        let mut members = Members::new();
        let mut peers = Vec::new();
        let mut servers = Vec::new();
        for (index, script) in (0u16..).zip(scripts) {
            let key = SecretKey::from_seed([100 + index as u8; 32]);
            members = members.with(key.public(), Role::Verifier);
            let (endpoint, address) = serve(&key, script);
            servers.push(endpoint);
            let member = Member {
                name: format!("v{index}"),
                vote_key: key.public(),
                cosigner_key: key.public(),
                transport_key: key.public(),
            };
            peers.push(VerifierPeer { index, member, address });
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint =
            Endpoint::bind_as(any, &key, Role::Host, Arc::new(members), Limits::default()).unwrap();
        let links: Vec<_> = peers.into_iter().map(|peer| Link::connect(endpoint.clone(), peer)).collect();
        let askers: Vec<_> = links.iter().map(Link::asker).collect();
        let refused = Mutex::new(Vec::new());
        let note = |verifier: u16, why: &Refused| refused.lock().unwrap().push((verifier, why.clone()));
        let taken = take(&askers, &self.wanted, note).await;
        (taken, refused.into_inner().unwrap())
    }
}

/// A verifier that answers every request for a state in the same way.
fn serve(key: &SecretKey, script: Script) -> (Endpoint, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let members = Members::new().with(source().public(), Role::Host);
    let endpoint = Endpoint::bind_as(any, key, Role::Verifier, Arc::new(members), Limits::default()).unwrap();
    let (address, accepting) = (endpoint.local_addr().unwrap(), endpoint.clone());
    tokio::spawn(async move {
        while let Some(connection) = accepting.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                while let Ok(mut exchange) = connection.accept().await {
                    let asked = exchange.recv::<ToVerifier>().await;
                    assert!(matches!(asked, Ok(Some(ToVerifier::StateRequest(_)))), "{asked:?}");
                    for answer in &script {
                        // The host goes away as soon as something is wrong.
                        if exchange.send(answer).await.is_err() {
                            break;
                        }
                    }
                    let _ = exchange.delivered().await;
                }
            });
        }
    });
    (endpoint, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_arrives_verified_with_a_durable_copy() {
    let scene = Scene::new();
    let (taken, refused) = scene.take(vec![scene.honest()]).await;
    let taken = taken.unwrap();
    assert_eq!((refused.len(), &taken.base.certificate), (0, &scene.wanted.certificate));
    let stored = Checkpoint::read(&scene.wanted.path).unwrap();
    assert_eq!(stored.measurement(), measurement_of(&scene.head.statement));
    assert_eq!(taken.arrived.checkpoint.measurement(), stored.measurement());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_page_is_named_by_its_index_and_the_next_verifier_is_asked() {
    let scene = Scene::new();
    let count = (scene.stream.len() - scene.pages_at) / 4096;
    let image = Image::admit(KV.elf).unwrap();
    let pages = PageSnapshot::genesis(&image, scene.head.register.spec.memory_bytes).unwrap();
    for which in [0, count / 2, count - 1] {
        let index = pages.tree().nonzero().nth(which).unwrap();
        let liar = scene.with_byte(scene.pages_at + which * 4096 + 99);
        let (taken, refused) = scene.take(vec![liar, scene.honest()]).await;
        taken.unwrap();
        let [(0, why)] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!(why.kind, "ChunkHashMismatch");
        assert_eq!(why.detail, format!("page {index} does not have the certified digest"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_lie_is_taken_up_and_an_honest_verifier_ends_it() {
    let scene = Scene::new();
    let other = InputRoot::from_bytes([9; 32]);
    let cut = |bytes: usize| scene.script(scene.head.clone(), &scene.stream[..bytes]);
    let lies: Vec<(&str, Script)> = vec![
        ("WrongVm", scene.with_head(|head| head.register.spec.name = "other".into())),
        (
            "PlatformMismatch",
            scene.with_head(|head| head.register.image = quorate_guest_images::STRESS.elf.to_vec()),
        ),
        ("WrongSlot", scene.with_head(|head| head.statement.body.input_root = other)),
        ("LogChainBroken", scene.with_head(|head| head.input_log.push(b"x"))),
        ("LogChainBroken", scene.with_head(|head| head.statements.push(b"x"))),
        (
            "LogChainBroken",
            scene.with_head(|head| {
                head.statements = Frontier::new();
                head.statements.push(b"another statement");
            }),
        ),
        ("LogChainBroken", scene.with_head(|head| head.history = vec![head.statement.clone()])),
        ("SnapshotInvalid", scene.with_byte(0)),
        ("RootMismatch", scene.with_byte(scene.pages_at - 1)),
        ("StreamStalled", cut(scene.stream.len() - 1)),
        ("StreamStalled", cut(10)),
        ("StreamStalled", vec![scene.head.clone().into(), StatePart { bytes: Vec::new() }.into()]),
        ("StreamStalled", vec![scene.head.clone().into(), scene.head.clone().into()]),
        ("DecodeError", vec![StatePart { bytes: vec![1] }.into()]),
        ("PeerTimeout", Vec::new()),
        ("MachineMissing", vec![Refused { kind: "MachineMissing".into(), detail: String::new() }.into()]),
    ];
    for (kind, lie) in lies {
        let (taken, refused) = scene.take(vec![lie, scene.honest()]).await;
        assert!(taken.is_ok(), "{kind}");
        let [(0, why)] = &refused[..] else { panic!("{kind}: {refused:?}") };
        assert_eq!(why.kind, kind, "{}", why.detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_lie_nothing_is_taken_up() {
    let scene = Scene::new();
    let liars = vec![scene.with_byte(scene.pages_at), scene.with_byte(scene.pages_at + 4096)];
    let (taken, refused) = scene.take(liars).await;
    assert_eq!(taken.unwrap_err().kind, "ChunkHashMismatch");
    assert_eq!(refused.len(), 2);
    assert!(!scene.wanted.path.exists(), "nothing was stored");
}

#[test]
fn a_generation_that_the_slot_does_not_belong_to_is_refused() {
    let scene = Scene::new();
    let mut wanted = scene.wanted.clone();
    wanted.grant.decision.generation = Generation(0);
    assert_eq!(check(&scene.head, &wanted).unwrap_err().kind, "FencedGeneration");
    assert_eq!(wanted.certificate.statement.slot, Slot(0));
    check(&scene.head, &scene.wanted).unwrap();
}
