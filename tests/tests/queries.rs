//! Queries to forks of a VM, and outputs that leave at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::request::Reply;
use quorate_attest::vm::{InputPolicy, Mode, OutputPolicy, VmSpec};
use quorate_cli::load::random_key;
use quorate_guest_images::KV;
use quorate_host::client::replica::{Replica, ReplicaError};
use quorate_kv::Operation;
use quorate_kv::client::Client;
use quorate_tests::{A, B, Setup, World, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Feeds and asks one VM.
struct Owner {
    replica: Replica,
    client: Client,
}

impl Owner {
    fn of(world: &World, spec: &VmSpec) -> Self {
        Self::with_key(world, spec, &random_key().unwrap())
    }

    /// Whose connections have this key; requests are signed with [`feeder`]'s.
    fn with_key(world: &World, spec: &VmSpec, key: &SecretKey) -> Self {
        let replica = Replica::new(key, spec.id(), world.target.hosts().to_vec()).unwrap();
        Self { replica, client: Client::new(feeder(), spec.id(), 0) }
    }

    fn request(&mut self, operation: &Operation) -> Vec<u8> {
        self.client.request(operation, Nonce::from_bytes([4; 16])).encoded()
    }

    async fn put(&mut self, value: &str) -> Result<(), ReplicaError> {
        let put = Operation::Put { key: b"ordered".to_vec(), value: value.into() };
        let request = self.request(&put);
        let reply = Reply::decoded(&self.replica.feed(&request).await?).unwrap();
        assert_eq!(reply.status, 0);
        Ok(())
    }

    /// The value, as a fork sees it, and how many inputs that fork had seen.
    async fn look(&mut self) -> Result<(Vec<u8>, u64), ReplicaError> {
        let request = self.request(&Operation::Get { key: b"ordered".to_vec() });
        let queried = self.replica.query(&request).await?;
        let [output] = &queried.outputs[..] else { panic!("one reply to one request: {queried:?}") };
        Ok((Reply::decoded(output).unwrap().body, queried.inputs))
    }
}

fn feeder() -> SecretKey {
    SecretKey::from_seed([21; 32])
}

/// Starts a VM whose outputs leave at once on the host that has none yet.
async fn immediate_vm(world: &World, input_policy: InputPolicy) -> VmSpec {
    let spec = VmSpec {
        name: "replica".into(),
        image: ImageDigest::from_bytes(KV.digest()),
        machine_version: 1,
        memory_bytes: 16 << 20,
        input_policy,
        output_policy: OutputPolicy::Immediate,
        host: world.target.hosts()[B].key,
        nonce: Nonce::from_bytes([8; 16]),
    };
    world.control.create(spec.clone(), KV.elf.to_vec()).await.expect("the VM is registered and starts");
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn immediate_replies_wait_for_no_slot_and_queries_for_no_input() {
    let mut world = World::start(Setup::default()).await;
    let spec = immediate_vm(&world, InputPolicy::ClientSigned).await;
    let mut owner = Owner::of(&world, &spec);
    owner.put("first").await.unwrap();
    // Without verifiers nothing is certified, and after four more slots none is cut.
    for name in VERIFIERS {
        world.cluster.node(name).unwrap().kill().await;
    }
    let before = world.status(B).await.unwrap();
    for number in 0..300u64 {
        owner.put(&number.to_string()).await.unwrap();
        assert_eq!(owner.look().await.unwrap(), (number.to_string().into_bytes(), number + 3));
    }
    let after = world.status(B).await.unwrap();
    assert!(after.slot.0 <= before.slot.0 + 5, "{before:?}, then {after:?}");
    world.stop().await;
}

const VERIFIERS: [&str; 4] = ["verifier-0", "verifier-1", "verifier-2", "verifier-3"];

/// As after a crash of its host, a VM that was taken back has forgotten what no slot holds, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_feeds_a_vm_takes_it_back_to_its_newest_slot_and_nobody_else() {
    let mut world = World::start(Setup::default()).await;
    let spec = immediate_vm(&world, InputPolicy::SignedBy(feeder().public())).await;
    let mut owner = Owner::with_key(&world, &spec, &feeder());
    owner.put("first").await.unwrap();
    let certified = async || match world.status(B).await {
        Ok(status) if status.certified.is_some() => Ok(()),
        status => Err(status),
    };
    until("a slot is certified", LIMIT, certified).await;
    for name in VERIFIERS {
        world.cluster.node(name).unwrap().kill().await;
    }
    // The slots that may wait for certificates: what comes after them is in none.
    let full = async || match world.status(B).await {
        Ok(status) if status.slot.0 >= status.certified.map_or(0, |slot| slot.0) + 4 => Ok(()),
        status => Err(status),
    };
    while full().await.is_err() {
        owner.put("in a slot, maybe").await.unwrap();
    }
    owner.put("in none").await.unwrap();
    let kind = |result: Result<(), ReplicaError>| result.unwrap_err().kind().to_owned();
    let mut other = Owner::of(&world, &spec);
    assert_eq!(kind(other.replica.rewind().await), "KeyRoleMismatch");
    other.client = Client::new(SecretKey::from_seed([22; 32]), spec.id(), 0);
    assert_eq!(kind(other.put("intruded").await), "InputUnauthenticated");
    let (newest, inputs) = owner.look().await.unwrap();
    assert_eq!(newest, b"in none");

    owner.replica.rewind().await.unwrap();
    for name in VERIFIERS {
        world.cluster.restart(name, None).await.expect("the verifier starts again");
    }
    let (value, left) = owner.look().await.unwrap();
    assert!(left < inputs && value != newest, "{left} of {inputs} inputs are left");
    let slot = world.status(B).await.unwrap().slot;
    owner.put("again").await.unwrap();
    until("a newer slot is certified", LIMIT, async || match world.status(B).await {
        Ok(status) if status.certified > Some(slot) => Ok(()),
        status => Err(status),
    })
    .await;
    assert_eq!(owner.look().await.unwrap().0, b"again");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_leave_the_slots_those_that_verifiers_reach_by_replay_without_them() {
    let world = World::start(Setup::default()).await;
    let spec = world.target.spec().clone();
    let mut owner = Owner::of(&world, &spec);
    let mut asked = 0;
    for round in 0..10 {
        let value = format!("value {round}");
        owner.put(&value).await.unwrap();
        for _ in 0..30 {
            assert_eq!(owner.look().await.unwrap().0, value.as_bytes());
            asked += 1;
        }
        let overwrite = owner.request(&Operation::Put { key: b"ordered".to_vec(), value: b"gone".to_vec() });
        owner.replica.query(&overwrite).await.unwrap();
        owner.replica.query(b"no request at all").await.unwrap();
    }
    assert_eq!(asked, 300);
    assert_eq!(world.get("ordered").await.unwrap(), b"value 9");
    let (_, inputs) = owner.look().await.unwrap();
    let certified = async || match world.records(A).await.certificates.last() {
        Some(last) if last.statement.body.end_input == inputs => Ok(()),
        last => Err(last.map(|last| last.statement.body.end_input)),
    };
    until("the last input is certified", LIMIT, certified).await;
    let records = world.assert_certificates_verify(A).await;
    // A verifier that replays is a twin that was never asked: other digests would have been refused.
    let modes = records.certificates.iter().flat_map(|certificate| &certificate.attestations);
    assert!(modes.into_iter().all(|attestation| attestation.mode == Mode::Replayed));
    let errors = world.status(A).await.unwrap().errors;
    assert!(errors.iter().all(|error| error.kind != "RootMismatch"), "{errors:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_while_the_vm_migrates_do_not_disturb_it_and_follow_it() {
    let world = World::start(Setup { memory_mib: 32, ..Setup::default() }).await;
    let spec = world.target.spec().clone();
    let mut owner = Owner::of(&world, &spec);
    owner.put("kept").await.unwrap();
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let asking = {
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(owner.look().await.expect("an answer, wherever the VM is").0, b"kept");
                asked.fetch_add(1, Ordering::Relaxed);
            }
            owner
        })
    };
    let more = async |count: u64| {
        let goal = asked.load(Ordering::Relaxed) + count;
        let look = async || {
            let now = asked.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(now) }
        };
        until("more answers to queries", LIMIT, look).await;
    };
    more(20).await;
    let report = world.migrate_under_load().await;
    assert_eq!(report.result, "activated", "{report:?}");
    more(20).await;
    over.store(true, Ordering::Relaxed);
    let owner = asking.await.unwrap();
    assert_eq!(owner.replica.active(), B, "the queries followed the VM");
    assert_eq!(world.one_active().await, B);
    world.assert_certificates_verify(B).await;
    world.assert_no_second_signature();
    world.stop().await;
}
