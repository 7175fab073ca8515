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

const LIMIT: Duration = Duration::from_secs(30);

/// Feeds and asks one VM.
struct Owner {
    replica: Replica,
    client: Client,
}

impl Owner {
    fn of(world: &World, spec: &VmSpec) -> Self {
        let replica = Replica::new(&random_key().unwrap(), spec.id(), world.target.hosts().to_vec()).unwrap();
        let client = Client::new(SecretKey::from_seed([21; 32]), spec.id(), 0);
        Self { replica, client }
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

/// Starts a VM whose outputs leave at once on the host that has none yet.
async fn immediate_vm(world: &World) -> VmSpec {
    let spec = VmSpec {
        name: "replica".into(),
        image: ImageDigest::from_bytes(KV.digest()),
        machine_version: 1,
        memory_bytes: 16 << 20,
        input_policy: InputPolicy::ClientSigned,
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
    let spec = immediate_vm(&world).await;
    let mut owner = Owner::of(&world, &spec);
    owner.put("first").await.unwrap();
    // Without verifiers nothing is certified, and after four more slots none is cut.
    for name in ["verifier-0", "verifier-1", "verifier-2", "verifier-3"] {
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
