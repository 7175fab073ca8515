//! Small valid inputs to begin with: libFuzzer finds from them what it would take days to guess.

use std::path::PathBuf;
use std::{env, fs};

use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{ImageDigest, Nonce, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::note::{KeyType, Note, SignatureLine, VerifierKey};
use quorate_attest::policy::Policy;
use quorate_attest::request::{Reply, Request};
use quorate_attest::service::{Genesis, Input, Output, Query};
use quorate_attest::tlog_proof::TlogProof;
use quorate_control::{Command, Quota};
use quorate_nss_protocol::{Answer as Found, Database, Found as Lines, Group, Passwd};
use quorate_ordering::protocol::{Find, NotYet, Question, Tail, ToOrchestrator};
use quorate_ordering::protocol::{FromOrchestrator, Submit};
use quorate_registry::testing::Operations;
use quorate_signer::protocol::{CosignRequest, Head, ToSigner};
use quorate_transport::encode_frame;

use crate::cut::framed;
use crate::proofs::group;
use crate::replica::{BEFORE_GENESIS, TIGHT, TWICE, step};
use crate::subject::{Counter, Registry, Uid};
use crate::world::{Subject, World};
use crate::{must, nss};

/// Where a target writes its seeds before it begins; without it there are none.
pub const FOLDER: &str = "QUORATE_FUZZ_SEEDS";

/// Writes them, when [`FOLDER`] is set.
pub fn write(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    let written = fs::create_dir_all(&folder).and_then(|()| {
        let mut numbered = seeds().into_iter().enumerate();
        numbered.try_for_each(|(number, seed)| fs::write(folder.join(format!("seed-{number:03}")), seed))
    });
    must(written);
}

/// Lives of a replica of the counter.
pub fn counter() -> Vec<Vec<u8>> {
    lives::<Counter>()
}

/// Lives of a replica of the registry of UIDs.
pub fn uid() -> Vec<Vec<u8>> {
    lives::<Uid>()
}

/// Lives of a replica of the registry of services.
pub fn registry() -> Vec<Vec<u8>> {
    lives::<Registry>()
}

fn lives<S: Subject>() -> Vec<Vec<u8>> {
    let world = World::<S>::new(false);
    let ticks: Vec<u8> = (0..4).flat_map(|voter| [step::TICK, voter, 1, 100 + voter]).collect();
    let script = |seed: u8| [step::SCRIPT, seed, 0, 7];
    let mut lives = Vec::new();
    for form in [0, TWICE, TIGHT, TIGHT | TWICE] {
        for seed in 0..6 {
            let long: Vec<u8> = (0..3).flat_map(|part| script(seed * 3 + part)).collect();
            lives.push([&[form][..], &ticks, &long, &[step::MOVE]].concat());
        }
        // Choices of every kind, as a counter would make them.
        let mixed =
            |seed: u32| (0..400u32).map(move |at| ((at ^ seed).wrapping_mul(2_654_435_761) >> 19) as u8);
        lives.extend((0..8).map(|seed| [form].into_iter().chain(mixed(seed)).collect::<Vec<u8>>()));
    }
    let raw = |input: &Input| [&[step::RAW][..], &framed(&world.wrapped(input))].concat();
    let begin = [&[BEFORE_GENESIS][..], &raw(&Input::Genesis(world.genesis.clone())), &[step::GENESIS, 5]];
    lives.push([&begin.concat()[..], &script(1), &[step::IMPORT, 0, 7, 1, 3, step::MOVE]].concat());
    for query in questions() {
        lives.push([&[0][..], &script(2), &raw(&Input::Query(query))].concat());
    }
    let body = framed(&Input::Query(Query::Head).encoded());
    lives.push([&[0, step::BODY][..], &body, &[0, 0, step::REPLAY, 0, 0, 0, 1, 9, step::BATCH, 5]].concat());
    lives
}

fn questions() -> Vec<Query> {
    let range = Query::Range { low: vec![1], high: vec![255], limit: 3 };
    vec![Query::Head, Query::Get { key: vec![1] }, range, Query::Export { after: Vec::new() }]
}

/// Messages of services, each behind the number of its type.
pub fn messages() -> Vec<Vec<u8>> {
    let world = World::<Registry>::new(false);
    let mut replica = world.begun.clone();
    let mut seeds = Vec::new();
    let mut add =
        |choice: u8, number: u8, bytes: Vec<u8>| seeds.push([&[choice, number][..], &bytes].concat());
    Registry::script(3, 30, world.instance(), &mut |request| {
        add(13, 0, request.clone());
        let reply: Reply = world.execute(&mut replica, request)?;
        add(14, 0, reply.encoded());
        add(21, 0, reply.body.clone());
        Some(reply)
    });
    for query in questions() {
        let input = Input::Query(query.clone());
        let output = world.feed(&mut replica, &world.wrapped(&input));
        if let Some(output @ Output::Answered { .. }) = output {
            add(1, 0, output.encoded());
            let Output::Answered { answer, .. } = output else { continue };
            add(3, 0, to_bytes(&answer));
        }
        add(0, 0, input.encoded());
        add(2, 0, query.encoded());
    }
    let Genesis { spec, .. } = &world.genesis;
    add(7, 0, spec.encoded());
    add(8, 0, to_bytes(&world.genesis));
    let mut operations = Operations::new(5);
    for operation in (0..40).map(|_| operations.draw()) {
        add(20, operation.op() as u8, operation.body());
    }
    for (key, value) in replica.state().into_iter().flat_map(|tree| tree.from(&[1])).take(40) {
        add(22, key.len() as u8, [key, value].concat());
    }
    add(
        23,
        0,
        br#"[{"host":"10.0.0.1","port":8080},{"host":"a.example","port":1,"labels":{"zone":"x"}}]"#.to_vec(),
    );
    add(24, 0, Registry::config());
    uid_messages(&mut add);
    let receipt = crate::proofs::receipt();
    add(4, 0, receipt.to_statement().encode());
    add(5, 0, receipt.encoded());
    seeds
}

fn uid_messages(add: &mut impl FnMut(u8, u8, Vec<u8>)) {
    let world = World::<Uid>::new(false);
    let mut replica = world.begun.clone();
    Uid::script(9, 40, world.instance(), &mut |request| {
        let op = must(Request::decoded(&request));
        add(25, op.op as u8, op.body);
        let reply = world.execute(&mut replica, request)?;
        add(26, op.op as u8, reply.body.clone());
        if let Ok(quorate_uid::Answer::Changed(change)) = quorate_uid::Answer::decode(op.op, &reply.body) {
            add(31, 0, change.bind.encoded());
        }
        Some(reply)
    });
    for (key, value) in replica.state().into_iter().flat_map(|tree| tree.from(&[1])) {
        match key {
            [2, b'u', uid @ ..] => {
                let number: Vec<u8> = uid.iter().rev().copied().collect();
                add(27, 0, value.to_vec());
                add(29, 0, [number, value.to_vec()].concat());
            }
            [2, b'n', ..] => add(28, 0, value.to_vec()),
            _ => {}
        }
    }
    add(30, 0, Uid::config());
}

/// Frames, each behind the number of its protocol.
pub fn wire() -> Vec<Vec<u8>> {
    let with = |choice: u8, bytes: Vec<u8>| [&[choice][..], &bytes].concat();
    let author = SecretKey::from_seed([1; 32]);
    let group = quorate_attest::id::GroupId::from_bytes([3; 32]);
    let quota = Quota { vms: 1, memory_bytes: 1 << 24, operations: 9 };
    let commands = [
        Command::RegisterClient { key: author.public(), quota, revision: 1 },
        Command::CallService { service: ServiceId::from_bytes([9; 32]), request: vec![1, 2, 3] },
        Command::UpgradeService {
            service: ServiceId::from_bytes([9; 32]),
            image: ImageDigest::from_bytes([7; 32]),
            number: 4,
        },
    ];
    let operations =
        commands.each_ref().map(|it| it.to_operation(&author, group, Nonce::from_bytes([1; 16])));
    let submit = ToOrchestrator::Submit(Submit { operation: operations[0].encoded() });
    let asks = [
        submit,
        ToOrchestrator::Find(Find { operation: operations[1].id() }),
        ToOrchestrator::Tail(Tail { from: 1, count: 2 }),
        ToOrchestrator::Question(Question::Status),
    ];
    let head = Head { origin: "group/service".into(), size: 2, root: [1; 32] };
    let cosign = ToSigner::Cosign(CosignRequest { old_size: 1, head, proof: vec![[2; 32]] });
    let statements = vec![crate::proofs::receipt().to_statement().encode()];
    let mut seeds = vec![
        with(0, asks.iter().flat_map(|ask| must(encode_frame(ask))).collect()),
        with(1, must(encode_frame(&FromOrchestrator::NotYet(NotYet {})))),
        with(
            3,
            must(encode_frame(&quorate_host::protocol::FromHost::Busy(quorate_host::protocol::Busy {
                retry_after_ms: 5,
            }))),
        ),
        with(
            2,
            must(encode_frame(&quorate_host::protocol::ToHost::Status(
                quorate_host::protocol::StatusQuery {},
            ))),
        ),
        with(6, must(quorate_signer::protocol::frame(&cosign))),
        with(6, must(quorate_signer::protocol::frame(&ToSigner::Sign { statements }))),
        with(12, to_bytes(&(crate::proofs::group("member", 60), Vec::<u8>::new()))),
    ];
    for (command, operation) in commands.iter().zip(&operations) {
        seeds.push(with(13, command.encoded()));
        seeds.push(with(14, operation.encoded()));
        seeds.push(with(16, operation.encoded()));
    }
    seeds
}

/// Requests and answers of the NSS socket.
pub fn nss() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for number in 0..nss::REQUESTS {
        let request = nss::request(number);
        let text = must(request.encode());
        seeds.push([&[nss::REQUESTS as u8][..], text.as_bytes()].concat());
        let (name, id) = ("alice".to_owned(), 1000);
        let found = match request.database {
            Database::Passwd => Lines::Passwd(vec![Passwd {
                name,
                uid: id,
                gid: id,
                gecos: "Alice".into(),
                home: "/home/alice".into(),
                shell: "/bin/sh".into(),
            }]),
            Database::Group => Lines::Group(vec![Group { name, gid: id }]),
        };
        let unavailable = Found::Unavailable { reason: "no quorum".into() };
        for answer in [Found::Found(found), Found::Absent, unavailable] {
            if let Ok(text) = answer.encode(&request) {
                seeds.push([&[number as u8][..], text.as_bytes()].concat());
            }
        }
    }
    seeds
}

/// Statements, groups and texts of attestation that nobody of the group signed.
pub fn attest() -> Vec<Vec<u8>> {
    let with = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    let (config, stranger) = (group("member", 60), SecretKey::from_seed([99; 32]));
    let checkpoint = must(Checkpoint::new("origin", 3, [7; 32])).to_text();
    let line = must(SignatureLine::sign("stranger", &stranger, &checkpoint));
    let key = must(VerifierKey::new("stranger", KeyType::Ed25519, stranger.public()));
    let note = must(Note::new(&checkpoint, vec![line.clone()]));
    let extra = Some(vec![1, 2, 3]);
    let proof = TlogProof { extra, index: 1, path: vec![[5; 32], [6; 32]], checkpoint: note.clone() };
    let policy = must(Policy::text_for_group(&config, Some(&key)));
    let statement = crate::proofs::receipt().to_statement();
    let signature = statement.sign(&stranger);
    let certificate = to_bytes(&(&statement, vec![(0u16, signature), (1, signature), (2, signature)]));
    vec![
        with(0, &statement.encode()),
        with(1, &certificate),
        with(20, &config.encoded()),
        with(22, &to_bytes(&(&config, Vec::<u8>::new()))),
        with(27, stranger.public().as_bytes()),
        with(29, &[1, 3, 0, 0, 0]),
        with(30, note.to_string().as_bytes()),
        with(31, proof.to_string().as_bytes()),
        with(32, policy.as_bytes()),
        with(33, checkpoint.as_bytes()),
        with(34, key.to_string().as_bytes()),
        with(35, line.to_string().as_bytes()),
        with(36, stranger.public().to_string().as_bytes()),
        with(37, signature.to_string().as_bytes()),
        with(38, config.id().to_string().as_bytes()),
    ]
}

/// Puts, reads, leases and transactions of etcd's clients.
pub fn etcd() -> Vec<Vec<u8>> {
    use prost::Message;
    use quorate_gateway::etcd::pb::compare::{CompareResult, CompareTarget, TargetUnion};
    use quorate_gateway::etcd::pb::request_op::Request;
    use quorate_gateway::etcd::pb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
    let put = PutRequest { key: b"b/1".to_vec(), value: b"v".to_vec(), ..PutRequest::default() };
    let get =
        RangeRequest { key: b"a".to_vec(), range_end: b"c".to_vec(), limit: 2, ..RangeRequest::default() };
    let op = |request| RequestOp { request: Some(request) };
    let txn = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Version as i32,
            key: b"b/1".to_vec(),
            range_end: Vec::new(),
            target_union: Some(TargetUnion::Version(0)),
        }],
        success: vec![op(Request::RequestPut(put.clone())), op(Request::RequestRange(get.clone()))],
        failure: vec![op(Request::RequestRange(get.clone()))],
    };
    let message = |kind: u8, bytes: Vec<u8>| [vec![kind, bytes.len() as u8], bytes].concat();
    let puts: Vec<u8> = (0..5).flat_map(|name| [0, name, 1, 8, 0, 1, 0, 0]).collect();
    let messages =
        [message(4, txn.encode_to_vec()), message(5, put.encode_to_vec()), message(6, get.encode_to_vec())];
    let leases = vec![2, 9, 3, 0, 1, 1, 8, 3, 0, 0, 0, 3, 3, 1, 1, 1, 1, 4, 0];
    vec![puts, leases, messages.concat(), messages[0].clone()]
}
