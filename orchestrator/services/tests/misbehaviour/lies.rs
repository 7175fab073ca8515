//! LIAR, CABAL, FAST-LIAR, EQUIVOCATOR and DOUBLER: valid signatures under wrong results.

use quorate_attest::encoding::Bounded;
use quorate_attest::key::Signature;
use quorate_attest::service::ServiceReceipt;
use quorate_services::{AnswerProof, Claim, Contradiction, Dissent, Freshness, Service, Settings, Trust};

use crate::conduct::Conduct;
use crate::guest::evidence;
use crate::library::Change::Bind;
use crate::library::forged;
use crate::scenario::{KEY, Setting, assert_stalls, everywhere, f_hold, serves, some, too_many, until};
use crate::world::{Hold, PLENTY, SHORT, World, client_key};

everywhere!(
    liar_f_change_nothing,
    liar_f_plus_one_stall_calls,
    fast_liar_f_that_answer_first_change_nothing,
    fast_liar_f_plus_one_stall_calls,
    cabal_f_change_nothing,
    cabal_f_plus_one_are_believed,
    equivocator_f_are_convicted_by_what_two_clients_keep,
    equivocator_f_that_contradict_themselves_to_one_client_are_convicted_by_it,
    equivocator_f_plus_one_split_the_views_of_two_clients,
    doubler_f_are_counted_once_whatever_index_they_give,
    doubler_f_plus_one_are_believed,
    doubler_signatures_twice_in_a_list_prove_nothing,
);

async fn liar_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::Liar).await;
}

async fn liar_f_plus_one_stall_calls(setting: Setting) {
    // Each tells something else: none of it is believed, but a quorum is missing.
    let world = too_many(setting, &Conduct::Liar);
    let client = world.client("client", SHORT);
    assert_stalls(client.call(Bind(KEY, "value")).await);
}

async fn fast_liar_f_that_answer_first_change_nothing(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = World::start(setting, f, &Conduct::Liar);
    world.hold(f..n, &Hold::Until(f.into()));
    serves(&world, "client").await;
}

async fn fast_liar_f_plus_one_stall_calls(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = too_many(setting, &Conduct::Liar);
    world.hold(f + 1..n, &Hold::Until((f + 1).into()));
    let client = world.client("client", SHORT);
    assert_stalls(client.call(Bind(KEY, "value")).await);
}

async fn cabal_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::Cabal).await;
}

async fn cabal_f_plus_one_are_believed(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = too_many(setting, &Conduct::Cabal);
    // Honest ones that complete the quorum order like they do, but their results are late; the others are not heard at all.
    world.hold(f + 1..n - f, &Hold::Results);
    world.hold(n - f..n, &Hold::All);
    let client = world.client("victim", PLENTY);
    let called = client.call(Bind(KEY, "value")).await.expect("f + 1 equal results");
    assert_eq!(called.body, [b'!', 0], "a result that nobody computed");
    let value = client.value(KEY, Freshness::Linearizable).await.expect("f + 1 equal states");
    assert_eq!(value, Some(forged(KEY, 0)), "a value that nobody bound");
}

async fn equivocator_f_are_convicted_by_what_two_clients_keep(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = World::start(setting, f, &Conduct::Equivocator);
    let (told, deceived) = (world.client("told", PLENTY), world.client("deceived", PLENTY));
    world.shared.deceived.lock().unwrap().insert(client_key("deceived").public());
    world.order(0, "writer", 1, Bind(KEY, "value"));

    // The first client's certificate has the signatures of the equivocators.
    world.hold(f + 1..n, &Hold::Results);
    assert_eq!(told.value(KEY, Freshness::Newest).await.expect("a read"), some("value"));
    let head = std::fs::read_dir(told.memory.path()).unwrap().map(|file| file.unwrap().path());
    let head = head.filter(|path| path.extension().is_some_and(|kind| kind == "head"));
    let head = quorate_services::Head::decoded(&std::fs::read(head.last().unwrap()).unwrap()).unwrap();

    // The second one has heard their lie before it is told the truth.
    world.release();
    world.hold(f..n, &Hold::UntilAt);
    assert_eq!(deceived.value(KEY, Freshness::Newest).await.expect("a read"), some("value"));
    let dissents = evidence::<Dissent>(deceived.memory.path());
    assert!(!dissents.is_empty(), "the lie is kept");
    for dissent in dissents {
        dissent.verify(&world.shared.groups.replicas).expect("shown against the certified receipt");
        let Dissent { replica, said, .. } = dissent;
        let truth = head.certificate.signatures.iter().find(|(index, _)| *index == replica);
        let first: (ServiceReceipt, Signature) = (head.certificate.receipt, truth.expect("it signed both").1);
        let pair = Contradiction { replica, first, second: said };
        pair.verify(&world.shared.groups.replicas).expect("transferable evidence");
        assert!(pair.verify(&world.shared.groups.orchestrators).is_err(), "against nobody else");
    }
    world.release();
    serves(&world, "deceived").await;
}

async fn equivocator_f_that_contradict_themselves_to_one_client_are_convicted_by_it(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = World::start(setting, f, &Conduct::Wavering);
    let client = world.client("client", PLENTY);
    client.done(Bind(KEY, "value")).await;
    let pairs = || evidence::<Contradiction>(client.memory.path());
    let read = async || {
        world.hold(f..n, &Hold::UntilAt);
        let value = client.value(KEY, Freshness::Newest).await.expect("a read");
        assert_eq!(value, some("value"));
    };
    until("a contradiction", read, || !pairs().is_empty()).await;
    for pair in pairs() {
        pair.verify(&world.shared.groups.replicas).expect("transferable evidence");
        assert!(pair.replica < f, "{}", pair.replica);
    }
}

async fn equivocator_f_plus_one_split_the_views_of_two_clients(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = too_many(setting, &Conduct::Equivocator);
    world.shared.deceived.lock().unwrap().insert(client_key("deceived").public());
    let (told, deceived) = (world.client("told", PLENTY), world.client("deceived", PLENTY));
    told.done(Bind(KEY, "value")).await;
    world.hold(f + 1..n, &Hold::Results);
    let values = [
        told.value(KEY, Freshness::Linearizable).await.expect("a read"),
        deceived.value(KEY, Freshness::Linearizable).await.expect("a read"),
    ];
    assert_eq!(values, [some("value"), Some(forged(KEY, 0))]);
}

async fn doubler_f_are_counted_once_whatever_index_they_give(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = World::start(setting, f, &Conduct::Doubler);
    // First the liars' answers, then their signatures under other indices, then the truth.
    world.hold(f..n, &Hold::Until(f.into()));
    serves(&world, "first").await;
    world.hold(f..n, &Hold::UntilAt);
    serves(&world, "again").await;
    // Those under whose indices they signed are not suspected.
    let client = world.client("client", PLENTY);
    client.done(Bind(KEY, "value")).await;
    for _ in 0..5 {
        world.hold(f..n, &Hold::UntilAt);
        assert_eq!(client.value(KEY, Freshness::Newest).await.expect("a read"), some("value"));
    }
    assert_eq!(evidence::<Contradiction>(client.memory.path()), []);
    let dissents = evidence::<Dissent>(client.memory.path());
    assert!(!dissents.is_empty() && dissents.iter().all(|dissent| dissent.replica < f), "{dissents:?}");
}

async fn doubler_f_plus_one_are_believed(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = too_many(setting, &Conduct::Doubler);
    world.order(0, "writer", 1, Bind(KEY, "value"));
    world.hold(f + 1..n, &Hold::Results);
    let client = world.client("client", PLENTY);
    let value = client.value(KEY, Freshness::Linearizable).await.expect("f + 1 equal states");
    assert_eq!(value, Some(forged(KEY, 0)), "a value that nobody bound");
}

async fn doubler_signatures_twice_in_a_list_prove_nothing(setting: Setting) {
    let world = World::start(setting, 0, &Conduct::Honest);
    let client = world.client("client", PLENTY);
    let called = client.done(Bind(KEY, "value")).await;
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
