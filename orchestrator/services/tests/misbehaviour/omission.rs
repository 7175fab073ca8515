//! OMIT: right receipts beside answers that hide something.

use quorate_services::Freshness;

use crate::conduct::Conduct;
use crate::library::Change::{Bind, Nothing};
use crate::scenario::{KEY, OTHER, Setting, assert_stalls, everywhere, f_hold, serves, some, too_many};
use crate::world::{Hold, PLENTY, SHORT, World};

everywhere!(
    omit_f_change_nothing,
    case_2e_4_a_liar_that_says_what_is_bound_is_not_is_not_believed,
    omit_f_plus_one_and_even_all_are_never_believed,
    omit_f_plus_one_that_certify_a_state_without_the_entry_are_believed,
);

async fn omit_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::Omit).await;
    let world = World::start(setting, setting.f, &Conduct::Omit);
    world.hold(setting.f..setting.n, &Hold::Until(setting.f.into()));
    // Several times: whose answer arrives first is chance even so.
    for name in ["first", "again", "further"] {
        serves(&world, name).await;
    }
}

/// An answer is proved against a certified state: one honest answer is enough, and however many omit something, they are not believed.
async fn omit_f_plus_one_and_even_all_are_never_believed(setting: Setting) {
    let world = too_many(setting, &Conduct::Omit);
    serves(&world, "client").await;
    let world = World::start(setting, setting.n, &Conduct::Omit);
    let client = world.client("client", SHORT);
    for (key, value) in [(KEY, "one"), (OTHER, "two"), (world.fresh_key(), "three")] {
        client.done(Bind(key, value)).await;
    }
    for _ in 0..3 {
        assert_stalls(client.keys(Freshness::Newest).await);
    }
    assert_stalls(client.value(OTHER, Freshness::Newest).await);
}

/// A world in which these replicas sign a state in which nothing was ever bound.
fn emptied(setting: Setting, liars: u16) -> World {
    let world = World::start(setting, liars, &Conduct::Split);
    for (sequence, key, value) in [(1, KEY, "here"), (2, OTHER, "there")] {
        world.order(0, "writer", sequence, Bind(key, value));
        // The other log has as many entries, of which none binds anything.
        world.order(1, "writer", sequence, Nothing);
    }
    world
}

async fn case_2e_4_a_liar_that_says_what_is_bound_is_not_is_not_believed(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = emptied(setting, f);
    // They answer first.
    world.hold(f..n, &Hold::Until(f.into()));
    let client = world.client("client", PLENTY);
    assert_eq!(client.value(KEY, Freshness::Linearizable).await.expect("a read"), some("here"));
    assert_eq!(client.keys(Freshness::Linearizable).await.expect("a list"), [KEY, OTHER]);
}

/// Next weaker than the proof is the state that it is against: `f + 1` that certify a state without the entry are believed.
async fn omit_f_plus_one_that_certify_a_state_without_the_entry_are_believed(setting: Setting) {
    let world = emptied(setting, setting.f + 1);
    world.hold(setting.f + 1..setting.n, &Hold::Results);
    let client = world.client("client", PLENTY);
    assert_eq!(client.keys(Freshness::Linearizable).await.expect("f + 1 equal states"), Vec::<u32>::new());
    assert_eq!(client.value(KEY, Freshness::Linearizable).await.expect("f + 1 equal states"), None);
}
