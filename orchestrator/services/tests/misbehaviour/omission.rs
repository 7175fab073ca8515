//! OMIT: right receipts beside answers that hide something.

use quorate_services::Freshness;

use crate::conduct::Conduct;
use crate::guest::Library;
use crate::scenario::{SIZES, assert_stalls, f_hold, register, serves, too_many};
use crate::world::{Hold, PLENTY, SHORT, World, client_key};

#[tokio::test(flavor = "multi_thread")]
async fn omit_f_change_nothing() {
    f_hold(Conduct::Omit).await;
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), f as u16, &Conduct::Omit);
        world.hold(f as u16..n, &Hold::Until(f as usize));
        serves(&world, "client").await;
    }
}

/// An answer is proved against a certified state: one honest answer is enough, and however many omit something, they are not believed.
#[tokio::test(flavor = "multi_thread")]
async fn omit_f_plus_one_and_even_all_are_never_believed() {
    let world = too_many(&Conduct::Omit);
    serves(&world, "client").await;
    let world = World::start(Library::Registry, (4, 1), 4, &Conduct::Omit);
    let client = world.client("client", SHORT);
    for name in ["a", "b", "c"] {
        client.done(&register(name, b"value")).await;
    }
    for _ in 0..3 {
        assert_stalls(client.names(Freshness::Newest).await);
    }
    assert_stalls(client.lookup("b", Freshness::Newest).await);
}

/// Next weaker than the proof is the state that it is against: `f + 1` that certify a state without the entry are believed.
#[tokio::test(flavor = "multi_thread")]
async fn omit_f_plus_one_that_certify_a_state_without_the_entry_are_believed() {
    let world = too_many(&Conduct::Split);
    let writer = client_key("writer");
    for (sequence, name) in [(1, "here"), (2, "there")] {
        world.order(0, &writer, sequence, 1, register(name, b"value").body());
        // The other log has as many entries, of which none registers anything.
        world.order(1, &writer, sequence, 0, Vec::new());
    }
    world.hold(2..4, &Hold::Results);
    let client = world.client("client", PLENTY);
    assert_eq!(
        client.names(Freshness::Linearizable).await.expect("f + 1 equal states"),
        Vec::<String>::new()
    );
}
