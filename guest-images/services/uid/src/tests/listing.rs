//! What a client reads: complete listings, histories, lines of passwd(5) and group(5).

use std::collections::BTreeSet;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::request::status;
use quorate_attest::service::Answer as Proof;

use super::world::{World, add, delete, name, path, profile, uid};
use crate::client::{Listing, User, ask_name, ask_uid, check_history, proven_name, proven_uid};
use crate::{
    Action, Answer, Attributes, Change, Entry, Gecos, NameRecord, Operation, Path, Profile, history_key,
};

fn complete<T>(world: &mut World, mut listing: Listing<T>) -> Vec<T> {
    while let Some(query) = listing.query() {
        let (answer, state) = world.query(&query);
        listing.add(&answer, &state).unwrap();
    }
    listing.complete().unwrap()
}

fn eventful() -> World {
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    world.change(&add(1001, 1, "bob")).unwrap();
    let rename = Operation::Rename { uid: uid(1000), counter: 2, name: name("al") };
    world.change(&rename).unwrap();
    let home = Attributes { home: Some(path("/al")), ..Default::default() };
    world.change(&Operation::SetAttr { uid: uid(1000), counter: 3, attributes: home }).unwrap();
    world.change(&delete(1000, 4)).unwrap();
    world
}

#[test]
fn test_listing_over_several_parts_is_complete_and_stands_against_one_state() {
    let mut world = World::with(&{
        let mut config = crate::testing::config();
        config.rules.users_max = 700;
        config
    });
    for number in 1000..1600 {
        world.change(&add(number, 1, &format!("u{number}"))).unwrap();
    }
    world.change(&delete(1300, 2)).unwrap();
    let state = world.query(&ask_uid(0)).1;
    let users = complete(&mut world, Listing::of_users(state));
    assert_eq!(
        users.iter().map(|entry| entry.uid.get()).collect::<Vec<_>>(),
        (1000..1600).collect::<Vec<_>>()
    );
    assert_eq!(users.iter().filter_map(Entry::user).count(), 599);

    // A part proved against a later state does not continue the listing.
    let mut listing = Listing::of_users(state);
    let (first, _) = world.query(&listing.query().unwrap());
    listing.add(&first, &state).unwrap();
    world.change(&add(1600, 1, "late")).unwrap();
    let (second, later) = world.query(&listing.query().unwrap());
    assert_eq!(listing.add(&second, &later).unwrap_err().kind(), "StateChanged");
    assert_eq!(listing.add(&second, &state).unwrap_err().kind(), "ProofInvalid");
    // Nor does the first part stand in for the second.
    assert_eq!(listing.add(&first, &state).unwrap_err().kind(), "ProofInvalid");
    assert!(listing.complete().is_none());
}

#[test]
fn test_history_of_a_uid_is_proved_and_leads_to_its_record() {
    let mut world = eventful();
    let (answer, state) = world.query(&ask_uid(1000));
    let record = proven_uid(1000, &answer, &state).unwrap().unwrap();
    let changes = complete(&mut world, Listing::of_history(1000, state));
    let actions: Vec<_> = changes.iter().map(|change| change.bind.action).collect();
    assert_eq!(actions, [Action::Add, Action::Rename, Action::SetAttributes, Action::Delete]);
    let names: Vec<_> = changes.iter().map(|change| change.bind.name.to_string()).collect();
    assert_eq!(names, ["alice", "al", "al", "al"]);
    assert_eq!(check_history(&record, &changes), Ok(()));

    for missing in 0..changes.len() {
        let mut rest = changes.clone();
        rest.remove(missing);
        assert_eq!(check_history(&record, &rest).unwrap_err().kind(), "Inconsistent", "{missing}");
    }
    let mut forged = changes.clone();
    forged[1].bind.name = name("mallory");
    assert!(check_history(&record, &forged).is_err());
    assert!(check_history(&record, &[]).is_err());
    // A UID without history has none, provably.
    assert_eq!(complete(&mut world, Listing::of_history(1002, state)), []);
}

#[test]
fn test_ordered_reads_answer_what_the_proofs_show() {
    let mut world = eventful();
    let state = world.query(&ask_uid(0)).1;
    let users = complete(&mut world, Listing::of_users(state));
    let history = complete(&mut world, Listing::of_history(1000, state));
    let Ok(Answer::Users(page)) = world.ask(9, &Operation::List { from: 0, limit: 256 }, None) else {
        panic!()
    };
    assert_eq!((page.entries, page.more), (users, false));
    let operation = Operation::History { uid: 1000, from: 0, limit: 256 };
    let Ok(Answer::Changes(page)) = world.ask(9, &operation, None) else { panic!() };
    assert_eq!((page.entries, page.more), (history.clone(), false));
    let operation = Operation::History { uid: 1000, from: 2, limit: 2 };
    let Ok(Answer::Changes(page)) = world.ask(9, &operation, None) else { panic!() };
    assert_eq!((page.entries, page.more), (history[1..3].to_vec(), true));
    let operation = Operation::History { uid: 1002, from: 0, limit: 2 };
    assert_eq!(world.ask(9, &operation, None), Err(status::NOT_FOUND));
    for (limit, expected) in [(0, status::MALFORMED), (257, status::TOO_LARGE)] {
        assert_eq!(world.ask(9, &Operation::List { from: 0, limit }, None), Err(expected));
    }
}

#[test]
fn test_ordered_page_of_the_longest_records_fits_into_a_reply_and_continues() {
    let mut world = World::new();
    let long = |text: &str| Profile {
        gecos: Gecos::new(&"g".repeat(128)).unwrap(),
        home: path(&format!("/{}", "h".repeat(254))),
        ..profile(text)
    };
    for number in 1000..1030 {
        let text = format!("{}{number}", "n".repeat(28));
        let operation = Operation::AddUser { uid: uid(number), counter: 1, profile: long(&text) };
        world.change(&operation).unwrap();
    }
    world.change(&delete(1000, 2)).unwrap();
    let (mut from, mut seen) = (0, Vec::new());
    loop {
        let Ok(Answer::Users(page)) = world.ask(9, &Operation::List { from, limit: 256 }, None) else {
            panic!()
        };
        assert!(!page.entries.is_empty());
        seen.extend(page.entries.iter().map(|entry| entry.uid.get()));
        from = seen.last().unwrap() + 1;
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (1000..1030).collect::<Vec<_>>());
}

#[test]
fn test_name_leads_to_its_uid_and_absence_of_a_name_is_proved() {
    let mut world = eventful();
    let (answer, state) = world.query(&ask_name(&name("bob")));
    assert_eq!(proven_name(&name("bob"), &answer, &state), Ok(Some(NameRecord::Bound(uid(1001)))));
    let (answer, state) = world.query(&ask_name(&name("alice")));
    assert!(matches!(proven_name(&name("alice"), &answer, &state), Ok(Some(NameRecord::Freed { .. }))));
    let (answer, state) = world.query(&ask_name(&name("zoe")));
    assert_eq!(proven_name(&name("zoe"), &answer, &state), Ok(None));
    assert_eq!(proven_name(&name("bob"), &answer, &state).unwrap_err().kind(), "ProofInvalid");
}

#[test]
fn test_change_in_another_place_of_history_is_refused() {
    let world = eventful();
    let mut tree = world.replica.state().unwrap().clone();
    let moved = tree.get(&history_key(1001, 1)).unwrap().to_vec();
    tree.put(history_key(1000, 1), moved);
    let listing = Listing::of_history(1000, tree.commitment());
    let quorate_attest::service::Query::Range { low, high, .. } = listing.query().unwrap() else { panic!() };
    let answer = Proof::Range { proof: tree.range(&low, &high), more: false };
    let refused = Listing::<Change>::of_history(1000, tree.commitment()).add(&answer, &tree.commitment());
    assert_eq!(refused.unwrap_err().kind(), "Inconsistent");
}

/// Reads a line the way programs do that read /etc/passwd.
fn parse(line: &str) -> Option<(String, u32, u32, String, String, String)> {
    let fields: Vec<_> = line.split(':').collect();
    let [name, "x", uid, gid, gecos, home, shell] = fields[..] else { return None };
    let text = |field: &str| field.to_string();
    Some((text(name), uid.parse().ok()?, gid.parse().ok()?, text(gecos), text(home), text(shell)))
}

fn arbitrary_user() -> impl Strategy<Value = User> {
    let fields = ("[a-z_][a-z0-9_-]{0,30}[a-z0-9_$-]?", "[^:,\\p{Cc}]{0,32}", "/[^:\\p{Cc}]{0,60}");
    (any::<u32>(), fields).prop_filter_map("a field breaks its rule", |(number, (name, gecos, home))| {
        let profile = Profile {
            name: crate::Name::new(&name).ok()?,
            gecos: Gecos::new(&gecos).ok()?,
            home: Path::new(&home).ok()?,
            shell: Path::new("/bin/sh").ok()?,
        };
        Some(User { uid: crate::Uid::new(number).ok()?, profile })
    })
}

proptest! {
    #[test]
    fn test_passwd_and_group_lines_read_back_as_the_same_user(user in arbitrary_user()) {
        let Profile { name, gecos, home, shell } = &user.profile;
        let expected = (
            name.to_string(), user.uid.get(), user.uid.get(), gecos.to_string(), home.to_string(), shell.to_string(),
        );
        let line = user.passwd_line();
        prop_assert_eq!(line.lines().count(), 1);
        prop_assert_eq!(parse(&line), Some(expected));
        let group = user.group_line();
        let fields: Vec<_> = group.split(':').collect();
        let number = user.uid.to_string();
        prop_assert_eq!(fields, [name.as_str(), "x", &number, ""]);
    }

    #[test]
    fn test_every_text_is_a_field_or_refused_and_no_field_holds_a_separator(text in ".{0,300}") {
        for field in [
            crate::Name::new(&text).map(|name| name.to_string()),
            Gecos::new(&text).map(|gecos| gecos.to_string()),
            Path::new(&text).map(|path| path.to_string()),
        ] {
            match field {
                Ok(field) => prop_assert!(!field.contains([':', '\n', '\0']) && field == text),
                Err(error) => prop_assert!(["NameInvalid", "FieldInvalid"].contains(&error.kind())),
            }
        }
    }
}

#[test]
fn test_numbers_of_users_and_names_in_a_listing_are_distinct() {
    let mut world = eventful();
    let state = world.query(&ask_uid(0)).1;
    let users: Vec<_> =
        complete(&mut world, Listing::of_users(state)).iter().filter_map(Entry::user).collect();
    let names: BTreeSet<_> = users.iter().map(|user| user.profile.name.clone()).collect();
    assert_eq!((users.len(), names.len()), (1, 1));
}
