//! Who may do what and when: admins, second admins, quarantine, limits, configuration.

use std::vec;
use std::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::VmId;
use quorate_attest::request::status;

use super::world::{World, add, delete, name, path, profile, sign_body, uid};
use crate::ledger::next_counter;
use crate::testing::{config, key};
use crate::{
    Action, Answer, Attributes, Change, Config, ConfigError, Gecos, Operation, QUARANTINE, Range, Request,
    Rules, Subject, op,
};

fn rename(number: u32, counter: u64, text: &str) -> Operation {
    Operation::Rename { uid: uid(number), counter, name: name(text) }
}

fn system(number: u32, text: &str) -> Operation {
    Operation::AddSystemUser { uid: uid(number), counter: 1, profile: profile(text) }
}

fn reissue(deleted: &Change, text: &str) -> Operation {
    Operation::Reissue {
        uid: deleted.bind.uid,
        counter: deleted.bind.counter + 1,
        previous: deleted.bind.digest(),
        profile: profile(text),
    }
}

fn quarantine(entries: u64) -> Config {
    let mut config = config();
    config.rules.quarantine = entries;
    config
}

#[test]
fn test_only_admins_change_anything_and_anybody_reads() {
    let mut world = World::new();
    let alice = world.change(&add(1000, 1, "alice")).unwrap();
    let shell = Attributes { shell: Some(path("/usr/sbin/nologin")), ..Default::default() };
    let changes = [
        add(1001, 1, "bob"),
        system(5, "bob"),
        delete(1000, 2),
        rename(1000, 2, "bob"),
        Operation::SetAttr { uid: uid(1000), counter: 2, attributes: shell },
        Operation::AllocUid { profile: profile("bob") },
        reissue(&alice, "bob"),
    ];
    for operation in &changes {
        for second in [None, Some(0)] {
            assert_eq!(world.ask(50, operation, second), Err(status::NOT_AUTHORIZED), "{operation:?}");
        }
    }
    let reads = [
        Operation::Lookup { subject: Subject::Uid(1000) },
        Operation::List { from: 0, limit: 256 },
        Operation::History { uid: 1000, from: 0, limit: 1 },
    ];
    for operation in &reads {
        assert!(world.ask(50, operation, None).is_ok(), "{operation:?}");
    }
}

#[test]
fn test_system_uid_is_bound_renamed_and_changed_only_by_two_admins() {
    let mut world = World::new();
    assert_eq!(world.ask(0, &add(0, 1, "root"), None), Err(status::NOT_AUTHORIZED));
    assert_eq!(world.ask(0, &system(0, "root"), None), Err(status::NOT_AUTHORIZED));
    assert_eq!(world.ask(0, &system(1000, "alice"), Some(1)), Err(status::MALFORMED));
    let Ok(Answer::Changed(root)) = world.ask(0, &system(0, "root"), Some(1)) else { panic!() };
    assert_eq!((root.author, root.approver), (key(0).public(), Some(key(1).public())));
    let home = Attributes { home: Some(path("/")), ..Default::default() };
    for operation in
        [rename(0, 2, "toor"), Operation::SetAttr { uid: uid(0), counter: 2, attributes: home.clone() }]
    {
        assert_eq!(world.ask(0, &operation, None), Err(status::NOT_AUTHORIZED));
    }
    assert!(world.ask(0, &rename(0, 2, "toor"), Some(2)).is_ok());
    let home = Operation::SetAttr { uid: uid(0), counter: 3, attributes: home };
    assert!(world.ask(1, &home, Some(0)).is_ok());
    // Taking away needs one.
    assert!(world.ask(0, &delete(0, 4), None).is_ok());
}

#[test]
fn test_approval_counts_only_for_its_service_client_sequence_operation_and_arguments() {
    let mut world = World::new();
    let operation = system(5, "daemon");
    let instance = world.service.instance();
    let first = key(0).public();
    let sequence = world.replica.next() + 20;
    let good = Request { instance: &instance, client: &first, sequence, operation: &operation };
    let elsewhere = VmId::from_bytes([1; 32]);
    let third = key(2).public();
    let others = [system(6, "daemon"), system(5, "sync"), rename(5, 1, "daemon")];
    let mut wrong = vec![
        Request { instance: &elsewhere, ..good },
        Request { client: &third, ..good },
        Request { sequence: sequence + 1, ..good },
    ];
    wrong.extend(others.iter().map(|operation| Request { operation, ..good }));
    let mut send = |sequence: u64, approval: &crate::Approval| {
        let body = operation.body(Some(approval));
        let request = sign_body(&key(0), instance, sequence, op::ADD_SYSTEM_USER, body);
        world.order(request.encoded()).0.status
    };
    // Each attempt uses up a sequence number, so each wrong one is made out for the number it is sent with.
    for (attempt, request) in (0..).zip(&wrong) {
        let sequence = sequence - 20 + attempt;
        let made_out = Request { sequence: request.sequence - 20 + attempt, ..*request };
        assert_eq!(send(sequence, &made_out.approve(&key(1))), status::BAD_SIGNATURE, "{request:?}");
    }
    // Nor does the first admin's own, a stranger's, or one passed off as another admin's.
    assert_eq!(
        send(sequence - 2, &Request { sequence: sequence - 2, ..good }.approve(&key(0))),
        status::NOT_AUTHORIZED
    );
    assert_eq!(
        send(sequence - 1, &Request { sequence: sequence - 1, ..good }.approve(&key(50))),
        status::NOT_AUTHORIZED
    );
    let mut borrowed = good.approve(&key(2));
    borrowed.admin = key(1).public();
    assert_eq!(send(sequence, &borrowed), status::BAD_SIGNATURE);
    let last = Request { sequence: sequence + 1, ..good }.approve(&key(1));
    assert_eq!(send(sequence + 1, &last), status::OK);
}

#[test]
fn test_approved_request_delivered_again_after_its_client_was_forgotten_changes_nothing() {
    let mut world = World::forgetful();
    world.change(&add(1000, 1, "alice")).unwrap();
    let deleted = world.change(&delete(1000, 2)).unwrap();
    world.pass(config().rules.quarantine);
    let request = world.sign(0, &reissue(&deleted, "carol"), Some(1)).encoded();
    assert_eq!(world.order(request.clone()).0.status, status::OK);
    world.change(&delete(1000, 4)).unwrap();
    world.pass(config().rules.quarantine);
    assert_eq!(world.order(request.clone()).0.status, status::REPLAYED);
    let lookup = Operation::Lookup { subject: Subject::Uid(7) };
    for client in 100..140 {
        assert_eq!(world.ask(client, &lookup, None), Err(status::NOT_FOUND));
    }
    // Nobody remembers the sequence number any more, but the counter has moved on.
    assert_eq!(world.order(request).0.status, status::STALE);
}

#[test]
fn test_unneeded_approval_must_still_be_valid_and_is_kept() {
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    assert_eq!(world.ask(0, &rename(1000, 2, "al"), Some(50)), Err(status::NOT_AUTHORIZED));
    let Ok(Answer::Changed(change)) = world.ask(0, &rename(1000, 2, "al"), Some(2)) else { panic!() };
    assert_eq!(change.approver, Some(key(2).public()));
}

#[test]
fn test_deleted_uid_is_reissued_by_two_admins_after_the_quarantine_as_an_action_of_its_own() {
    let mut world = World::with(&quarantine(10));
    world.change(&add(1000, 1, "alice")).unwrap();
    let deleted = world.change(&delete(1000, 2)).unwrap();
    let operation = reissue(&deleted, "carol");
    assert_eq!(world.ask(0, &operation, None), Err(status::NOT_AUTHORIZED));
    while world.replica.next() < deleted.number + 10 {
        assert_eq!(world.ask(0, &operation, Some(1)), Err(status::CONFLICT));
    }
    let wrong =
        Operation::Reissue { uid: uid(1000), counter: 3, previous: [0; 32], profile: profile("carol") };
    assert_eq!(world.ask(0, &wrong, Some(1)), Err(status::STALE));
    let Ok(Answer::Changed(change)) = world.ask(0, &operation, Some(1)) else { panic!() };
    assert_eq!((change.bind.action, change.bind.counter), (Action::Transfer, 3));
    assert_eq!(change.bind.previous, deleted.bind.digest());
    // It is bound now, and what never was cannot be issued again.
    assert_eq!(world.ask(0, &reissue(&change, "dave"), Some(1)), Err(status::CONFLICT));
    let never =
        Operation::Reissue { uid: uid(1001), counter: 1, previous: [0; 32], profile: profile("dave") };
    assert_eq!(world.ask(0, &never, Some(1)), Err(status::NOT_FOUND));
}

#[test]
fn test_freed_name_rests_for_everybody_but_the_user_who_had_it() {
    let mut world = World::with(&quarantine(10));
    world.change(&add(1000, 1, "alice")).unwrap();
    let renamed = world.change(&rename(1000, 2, "al")).unwrap();
    let allocate = Operation::AllocUid { profile: profile("alice") };
    for operation in [add(1001, 1, "alice"), allocate] {
        assert_eq!(world.change(&operation), Err(status::CONFLICT), "{operation:?}");
    }
    world.change(&add(1001, 1, "bob")).unwrap();
    assert_eq!(world.change(&rename(1001, 2, "alice")), Err(status::CONFLICT));
    world.change(&rename(1000, 3, "alice")).unwrap();
    let again = world.change(&rename(1000, 4, "al")).unwrap();
    assert!(again.number > renamed.number);
    world.pass(again.number + 9 - world.replica.next());
    assert_eq!(world.change(&rename(1001, 2, "alice")), Err(status::CONFLICT));
    assert!(world.change(&rename(1001, 2, "alice")).is_ok());
    // A deleted user's name rests as well.
    world.change(&delete(1001, 3)).unwrap();
    assert_eq!(world.change(&add(1002, 1, "alice")), Err(status::CONFLICT));
}

#[test]
fn test_quarantine_is_2_to_the_20_entries_unless_configured() {
    let usual = Config::usual(vec![key(0).public(), key(1).public()]).unwrap();
    assert_eq!((usual.rules.quarantine, QUARANTINE), (1_048_576, 1_048_576));
    assert_eq!(usual.ranges, [Range { first: 1000, last: 59_999 }]);
    assert_eq!(usual.validate(), Ok(()));
}

#[test]
fn test_change_made_for_another_counter_is_stale() {
    let mut world = World::new();
    assert_eq!(world.change(&add(1000, 2, "alice")), Err(status::STALE));
    assert_eq!(world.change(&delete(1000, 1)), Err(status::NOT_FOUND));
    world.change(&add(1000, 1, "alice")).unwrap();
    for counter in [0, 1, 3, u64::MAX] {
        assert_eq!(world.change(&delete(1000, counter)), Err(status::STALE));
        assert_eq!(world.change(&rename(1000, counter, "al")), Err(status::STALE));
    }
    assert_eq!(world.change(&rename(1000, 2, "al")).unwrap().bind.counter, 2);
    assert_eq!(world.change(&delete(1000, 3)).unwrap().bind.counter, 3);
    assert_eq!(world.change(&delete(1000, 4)), Err(status::CONFLICT));
    assert_eq!(world.change(&rename(1000, 4, "al")), Err(status::CONFLICT));
}

#[test]
fn test_counter_never_reaches_its_end() {
    assert_eq!(next_counter(0), Ok(1));
    assert_eq!(next_counter(u64::MAX - 2), Ok(u64::MAX - 1));
    assert_eq!(next_counter(u64::MAX - 1), Err(status::LIMIT));
    assert_eq!(next_counter(u64::MAX), Err(status::LIMIT));
}

#[test]
fn test_shell_outside_the_configured_ones_is_refused() {
    let mut world = World::new();
    let mut evil = profile("alice");
    evil.shell = path("/bin/evil");
    let operations = [
        Operation::AddUser { uid: uid(1000), counter: 1, profile: evil.clone() },
        Operation::AllocUid { profile: evil.clone() },
    ];
    for operation in &operations {
        assert_eq!(world.change(operation), Err(status::NOT_AUTHORIZED));
    }
    world.change(&add(1000, 1, "alice")).unwrap();
    let attributes = Attributes { shell: Some(evil.shell), ..Default::default() };
    let set = Operation::SetAttr { uid: uid(1000), counter: 2, attributes };
    assert_eq!(world.change(&set), Err(status::NOT_AUTHORIZED));
    let gecos = Attributes { gecos: Some(Gecos::new("Alice Liddell").unwrap()), ..Default::default() };
    let set = Operation::SetAttr { uid: uid(1000), counter: 2, attributes: gecos };
    assert_eq!(world.change(&set).unwrap().bind.gecos.as_str(), "Alice Liddell");
}

#[test]
fn test_allocation_takes_the_lowest_uid_that_was_never_bound_and_passes_over_refused_ones() {
    let mut config = quarantine(0);
    config.ranges = vec![Range { first: 1000, last: 1003 }, Range { first: 65_533, last: 65_536 }];
    let mut world = World::with(&config);
    world.change(&add(1001, 1, "b")).unwrap();
    let allocate = |world: &mut World, text: &str| {
        let operation = Operation::AllocUid { profile: profile(text) };
        world.change(&operation).map(|change| change.bind.uid.get())
    };
    assert_eq!(allocate(&mut world, "a"), Ok(1000));
    world.change(&delete(1000, 2)).unwrap();
    assert_eq!(allocate(&mut world, "b"), Err(status::CONFLICT));
    let rest = ["c", "d", "e", "f"].map(|text| allocate(&mut world, text));
    assert_eq!(rest, [Ok(1002), Ok(1003), Ok(65_533), Ok(65_536)]);
    assert_eq!(allocate(&mut world, "g"), Err(status::LIMIT));
}

#[test]
fn test_full_registry_refuses_additions_and_still_deletes() {
    let mut config = config();
    config.rules = Rules { quarantine: 0, users_max: 3, changes_max: 8 };
    let mut world = World::with(&config);
    for (number, text) in [(1000, "a"), (1001, "b"), (1002, "c")] {
        world.change(&add(number, 1, text)).unwrap();
    }
    assert_eq!(world.change(&add(1003, 1, "d")), Err(status::LIMIT));
    // Five changes are left, three of them promised to deletions.
    world.change(&rename(1000, 2, "aa")).unwrap();
    world.change(&rename(1000, 3, "ab")).unwrap();
    assert_eq!(world.change(&rename(1000, 4, "ac")), Err(status::LIMIT));
    for (number, counter) in [(1000, 4), (1001, 2), (1002, 2)] {
        world.change(&delete(number, counter)).unwrap();
    }
    assert_eq!(world.change(&add(1003, 1, "d")), Err(status::LIMIT));
}

#[test]
fn test_error_leaves_the_registry_as_it_was() {
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    let registry = |world: &World| -> Vec<_> {
        let entries = world.replica.state().unwrap().entries();
        entries.iter().filter(|(key, _)| key[0] == 2).cloned().collect()
    };
    let before = registry(&world);
    for operation in [add(1000, 2, "bob"), add(1001, 1, "alice"), delete(1000, 7), rename(1001, 1, "x")] {
        assert!(world.change(&operation).is_err());
        assert_eq!(registry(&world), before);
    }
}

#[test]
fn test_configuration_with_a_broken_rule_is_refused_at_genesis() {
    let good = config();
    assert!(World::begin(good.encoded()).is_ok());
    let with = |change: &dyn Fn(&mut Config)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let admin = good.admins[0];
    let cases = [
        (with(&|c| c.admins.truncate(1)), ConfigError::Admins),
        (with(&|c| c.admins.push(admin)), ConfigError::Admins),
        (with(&|c| c.shells.clear()), ConfigError::Shells),
        (with(&|c| c.shells.push(path("/bin/sh"))), ConfigError::Shells),
        (with(&|c| c.ranges[0].first = 999), ConfigError::Ranges),
        (with(&|c| c.ranges[0].last = 999), ConfigError::Ranges),
        (with(&|c| c.ranges.reverse()), ConfigError::Ranges),
        (with(&|c| c.rules.users_max = 0), ConfigError::Limits),
        (with(&|c| c.rules.users_max = 65_537), ConfigError::Limits),
        (with(&|c| c.rules.changes_max = 262_145), ConfigError::Limits),
    ];
    for (config, error) in cases {
        assert_eq!(config.validate(), Err(error));
        assert_eq!(error.kind(), "BadConfig");
        assert_eq!(World::begin(config.encoded()).err(), Some(status::BAD_CONFIG), "{error}");
    }
    let mut trailing = good.encoded();
    trailing.push(0);
    assert_eq!(World::begin(trailing).err(), Some(status::BAD_CONFIG));
    assert_eq!(World::begin(vec![]).err(), Some(status::BAD_CONFIG));
}
