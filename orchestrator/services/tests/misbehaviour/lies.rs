//! LIAR, CABAL, FAST-LIAR, EQUIVOCATOR and DOUBLER: valid signatures under wrong results.

use quorate_attest::encoding::Bounded;
use quorate_attest::key::Signature;
use quorate_attest::service::ServiceReceipt;
use quorate_services::{AnswerProof, Claim, Contradiction, Dissent, Freshness, Service, Settings, Trust};
use quorate_uid::client::{ask_uid, proven_uid};

use crate::conduct::Conduct;
use crate::guest::{Library, evidence};
use crate::scenario::{SIZES, alice, assert_stalls, f_hold, register, serves, too_many, until};
use crate::world::{Hold, PLENTY, SHORT, World, client_key};

#[tokio::test(flavor = "multi_thread")]
async fn liar_f_change_nothing() {
    f_hold(Conduct::Liar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn liar_f_plus_one_stall_calls() {
    // Each tells something else: none of it is believed, but a quorum is missing.
    let world = too_many(&Conduct::Liar);
    let client = world.client("client", SHORT);
    assert_stalls(client.call(&register("name", b"value")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_liar_f_that_answer_first_change_nothing() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), f as u16, &Conduct::Liar);
        world.hold(f as u16..n, &Hold::Until(f as usize));
        serves(&world, "client").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_liar_f_plus_one_stall_calls() {
    let world = too_many(&Conduct::Liar);
    world.hold(2..4, &Hold::Until(2));
    let client = world.client("client", SHORT);
    assert_stalls(client.call(&register("name", b"value")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cabal_f_change_nothing() {
    f_hold(Conduct::Cabal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cabal_f_plus_one_are_believed() {
    let world = too_many(&Conduct::Cabal);
    // One that is honest orders like they do, but its results are late; the other one is not heard at all.
    world.hold([2], &Hold::Results);
    world.hold([3], &Hold::All);
    let client = world.client("victim", PLENTY);
    let called = client.call(&register("name", b"value")).await.expect("f + 1 equal results");
    assert_eq!(called.body, [b'!', 0], "a result that nobody computed");
    let value = client.lookup("name", Freshness::Linearizable).await.expect("f + 1 equal states");
    assert_eq!(value, Some(vec![b'!', 0]), "a value that nobody registered");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_2e_4_a_liar_that_says_a_uid_is_unbound_is_not_believed() {
    let client_of = |world: &World| world.client("admin-0", PLENTY);
    let add = alice(1000);
    let world = World::start(Library::Uid, (7, 2), 2, &Conduct::Cabal);
    world.hold(2..7, &Hold::Until(2));
    let client = client_of(&world);
    let called = client.service.call(add.op(), add.body(None)).await.expect("alice is added");
    assert_eq!(called.status, 0);
    let read = client.service.query(ask_uid(1000), Freshness::Linearizable).await.expect("a read");
    let state = read.proof.receipt.receipt.state;
    let entry = proven_uid(1000, &read.value, &state).expect("proved").expect("1000 is bound");
    assert_eq!(entry.user().expect("a user").profile.name.as_str(), "alice");

    // Three liars of seven certify a state in which it is unbound.
    let world = World::start(Library::Uid, (7, 2), 3, &Conduct::Cabal);
    world.hold(3..7, &Hold::Results);
    let client = client_of(&world);
    client.service.call(add.op(), add.body(None)).await.expect("f + 1 equal results");
    let read =
        client.service.query(ask_uid(1000), Freshness::Linearizable).await.expect("f + 1 equal states");
    let state = read.proof.receipt.receipt.state;
    assert!(proven_uid(1000, &read.value, &state).expect("proved").is_none(), "believed to be free");
}

#[tokio::test(flavor = "multi_thread")]
async fn equivocator_f_are_convicted_by_what_two_clients_keep() {
    for (n, f) in SIZES {
        let liars = f as u16;
        let world = World::start(Library::Registry, (n, f), liars, &Conduct::Equivocator);
        let (told, deceived) = (world.client("told", PLENTY), world.client("deceived", PLENTY));
        world.shared.deceived.lock().unwrap().insert(client_key("deceived").public());
        world.order(0, &client_key("writer"), 1, 1, register("name", b"value").body());

        // The first client's certificate has the signatures of the equivocators.
        world.hold(liars + 1..n, &Hold::Results);
        assert_eq!(told.lookup("name", Freshness::Newest).await.expect("a read"), Some(b"value".to_vec()));
        let head = std::fs::read_dir(told.memory.path()).unwrap().map(|file| file.unwrap().path());
        let head = head.filter(|path| path.extension().is_some_and(|kind| kind == "head"));
        let head = quorate_services::Head::decoded(&std::fs::read(head.last().unwrap()).unwrap()).unwrap();

        // The second one has heard their lie before it is told the truth.
        world.release();
        world.hold(liars..n, &Hold::UntilAt);
        assert_eq!(
            deceived.lookup("name", Freshness::Newest).await.expect("a read"),
            Some(b"value".to_vec())
        );
        let dissents = evidence::<Dissent>(deceived.memory.path());
        assert!(!dissents.is_empty(), "the lie is kept");
        for dissent in dissents {
            dissent.verify(&world.shared.groups.replicas).expect("shown against the certified receipt");
            let Dissent { replica, said, .. } = dissent;
            let truth = head.certificate.signatures.iter().find(|(index, _)| *index == replica);
            let first: (ServiceReceipt, Signature) =
                (head.certificate.receipt, truth.expect("it signed both").1);
            let pair = Contradiction { replica, first, second: said };
            pair.verify(&world.shared.groups.replicas).expect("transferable evidence");
            assert!(pair.verify(&world.shared.groups.orchestrators).is_err(), "against nobody else");
        }
        world.release();
        serves(&world, "deceived").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equivocator_f_that_contradict_themselves_to_one_client_are_convicted_by_it() {
    let world = World::start(Library::Registry, (4, 1), 1, &Conduct::Wavering);
    let client = world.client("client", PLENTY);
    client.done(&register("name", b"value")).await;
    let pairs = || evidence::<Contradiction>(client.memory.path());
    let read = async || {
        world.hold(1..4, &Hold::UntilAt);
        let value = client.lookup("name", Freshness::Newest).await.expect("a read");
        assert_eq!(value, Some(b"value".to_vec()));
    };
    until("a contradiction", read, || !pairs().is_empty()).await;
    for pair in pairs() {
        pair.verify(&world.shared.groups.replicas).expect("transferable evidence");
        assert_eq!(pair.replica, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equivocator_f_plus_one_split_the_views_of_two_clients() {
    let world = too_many(&Conduct::Equivocator);
    world.shared.deceived.lock().unwrap().insert(client_key("deceived").public());
    let (told, deceived) = (world.client("told", PLENTY), world.client("deceived", PLENTY));
    told.done(&register("name", b"value")).await;
    world.hold(2..4, &Hold::Results);
    let values = [
        told.lookup("name", Freshness::Linearizable).await.expect("a read"),
        deceived.lookup("name", Freshness::Linearizable).await.expect("a read"),
    ];
    assert_eq!(values, [Some(b"value".to_vec()), Some(vec![b'!', 0])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn doubler_f_are_counted_once_whatever_index_they_give() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), f as u16, &Conduct::Doubler);
        // First the liars' answers, then their signatures under other indices, then the truth.
        world.hold(f as u16..n, &Hold::Until(f as usize));
        serves(&world, "first").await;
        world.hold(f as u16..n, &Hold::UntilAt);
        serves(&world, "again").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doubler_f_plus_one_are_believed() {
    let world = too_many(&Conduct::Doubler);
    world.order(0, &client_key("writer"), 1, 1, register("name", b"value").body());
    world.hold(2..4, &Hold::Results);
    let client = world.client("client", PLENTY);
    let value = client.lookup("name", Freshness::Linearizable).await.expect("f + 1 equal states");
    assert_eq!(value, Some(vec![b'!', 0]), "a value that nobody registered");
}

#[tokio::test(flavor = "multi_thread")]
async fn doubler_signatures_twice_in_a_list_prove_nothing() {
    let world = World::start(Library::Registry, (4, 1), 0, &Conduct::Honest);
    let client = world.client("client", PLENTY);
    let called = client.done(&register("name", b"value")).await;
    let refused = |change: &dyn Fn(&mut AnswerProof)| {
        let mut proof = (*called.proof).clone();
        change(&mut proof);
        proof.verify(client.service.trust()).expect_err("one signature counts once").kind()
    };
    assert_eq!(
        refused(&|proof| proof.receipt.signatures[1] = proof.receipt.signatures[0]),
        "DuplicateSigner"
    );
    refused(&|proof| proof.receipt.signatures[1].1 = proof.receipt.signatures[0].1);
    refused(&|proof| {
        let Claim::Reply { order, .. } = &mut proof.claim else { panic!("a call") };
        order.signatures[2] = order.signatures[1];
    });
    // One key under two indices: such a group is not used at all.
    let mut replicas = world.trust().replicas;
    replicas.members[1].vote_key = replicas.members[0].vote_key;
    let settings = Settings::new(client.memory.path().to_owned());
    let key = client_key("client");
    let error = Service::new(client.orderer.clone(), Trust { replicas, ..world.trust() }, key, settings)
        .expect_err("a key that votes twice");
    assert_eq!(error.kind(), "DuplicateSigner");
}
