//! Any sequence of operations against a model that keeps the rules in the plainest way.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::request::status;

use super::world::{World, add, delete, name, profile, uid};
use crate::client::{Listing, check_history};
use crate::testing::config;
use crate::{Change, Holder, NameRecord, Operation, UidRecord, uid_of_key};

const QUARANTINE: u64 = 5;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Add(u32, usize),
    Delete(u32),
    Rename(u32, usize),
    Allocate(usize),
    Reissue(u32, usize),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    let (uid, name) = (1000..1004u32, 0..NAMES.len());
    prop_oneof![
        (uid.clone(), name.clone()).prop_map(|(uid, name)| Step::Add(uid, name)),
        uid.clone().prop_map(Step::Delete),
        (uid.clone(), name.clone()).prop_map(|(uid, name)| Step::Rename(uid, name)),
        name.clone().prop_map(Step::Allocate),
        (uid, name).prop_map(|(uid, name)| Step::Reissue(uid, name)),
        Just(Step::Pass),
    ]
}

/// Lists instead of maps, and nothing but the rules.
#[derive(Default)]
struct Model {
    /// Changes of each UID: entry and name after it, if any.
    changes: BTreeMap<u32, Vec<(u64, Option<usize>)>>,
    /// Who had a name last, until when.
    freed: BTreeMap<usize, (u32, u64)>,
}

impl Model {
    fn holder(&self, uid: u32) -> Option<usize> {
        self.changes.get(&uid)?.last()?.1
    }

    fn may_have(&self, uid: Option<u32>, name: usize, now: u64) -> bool {
        let bound = self.changes.keys().any(|other| self.holder(*other) == Some(name));
        let resting = |(former, at): &(u32, u64)| Some(*former) != uid && now - at < QUARANTINE;
        !bound && !self.freed.get(&name).is_some_and(resting)
    }

    fn set(&mut self, uid: u32, name: Option<usize>, now: u64) -> Result<u32, u16> {
        if let Some(old) = self.holder(uid) {
            self.freed.insert(old, (uid, now));
        }
        self.changes.entry(uid).or_default().push((now, name));
        Ok(uid)
    }

    fn apply(&mut self, step: &Step, now: u64) -> Result<u32, u16> {
        match *step {
            Step::Add(uid, _) if self.changes.contains_key(&uid) => Err(status::CONFLICT),
            Step::Add(uid, name) if self.may_have(Some(uid), name, now) => self.set(uid, Some(name), now),
            Step::Delete(uid) | Step::Rename(uid, _) | Step::Reissue(uid, _)
                if !self.changes.contains_key(&uid) =>
            {
                Err(status::NOT_FOUND)
            }
            Step::Delete(uid) | Step::Rename(uid, _) if self.holder(uid).is_none() => Err(status::CONFLICT),
            Step::Delete(uid) => self.set(uid, None, now),
            Step::Rename(uid, name) if self.may_have(Some(uid), name, now) => self.set(uid, Some(name), now),
            Step::Allocate(name) if self.may_have(None, name, now) => {
                match (1000..=1003).find(|uid| !self.changes.contains_key(uid)) {
                    Some(uid) => self.set(uid, Some(name), now),
                    None => Err(status::LIMIT),
                }
            }
            Step::Reissue(uid, name) => {
                let rested = self.changes[&uid].last().is_some_and(|(at, _)| now - at >= QUARANTINE);
                let free = self.holder(uid).is_none() && self.may_have(Some(uid), name, now);
                if rested && free { self.set(uid, Some(name), now) } else { Err(status::CONFLICT) }
            }
            _ => Err(status::CONFLICT),
        }
    }
}

fn operation(world: &World, step: &Step) -> Option<Operation> {
    let record = |number: u32| {
        let bytes = world.replica.state().unwrap().get(&crate::uid_key(number))?;
        Some(UidRecord::decoded(bytes).unwrap())
    };
    let next = |number| record(number).map_or(1, |record| record.counter + 1);
    Some(match *step {
        Step::Add(number, text) => add(number, next(number), NAMES[text]),
        Step::Delete(number) => delete(number, next(number)),
        Step::Rename(number, text) => {
            Operation::Rename { uid: uid(number), counter: next(number), name: name(NAMES[text]) }
        }
        Step::Allocate(text) => Operation::AllocUid { profile: profile(NAMES[text]) },
        Step::Reissue(number, text) => Operation::Reissue {
            uid: uid(number),
            counter: next(number),
            previous: record(number).map_or([0; 32], |record| record.digest),
            profile: profile(NAMES[text]),
        },
        Step::Pass => return None,
    })
}

/// Both maps say the same, nobody has two of anything, and every history leads to its record.
fn check_maps(world: &mut World) {
    let tree = world.replica.state().unwrap().clone();
    let (mut by_uid, mut by_name) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in tree.entries() {
        match key[..] {
            [2, b'u', ..] => {
                let number = uid_of_key(key).unwrap();
                if let Holder::Bound(profile) = UidRecord::decoded(value).unwrap().holder {
                    assert!(by_uid.insert((profile.name, number)));
                }
            }
            [2, b'n', ..] => {
                if let NameRecord::Bound(uid) = NameRecord::decoded(value).unwrap() {
                    let text = std::str::from_utf8(&key[2..]).unwrap();
                    assert!(by_name.insert((name(text), uid.get())));
                }
            }
            _ => {}
        }
    }
    assert_eq!(by_uid, by_name);
    let distinct = |values: Vec<_>| values.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(by_uid.iter().map(|(name, _)| name.clone()).collect()), by_uid.len());
    let (answer, state) = world.query(&Listing::of_users(tree.commitment()).query().unwrap());
    let mut users = Listing::of_users(state);
    users.add(&answer, &state).unwrap();
    for entry in users.complete().unwrap() {
        let mut history = Listing::<Change>::of_history(entry.uid.get(), state);
        let (answer, _) = world.query(&history.query().unwrap());
        history.add(&answer, &state).unwrap();
        assert_eq!(check_history(&entry, &history.complete().unwrap()), Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn test_both_maps_stay_injective_under_any_sequence_of_operations(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut config = config();
        config.rules.quarantine = QUARANTINE;
        config.ranges = std::vec![crate::Range { first: 1000, last: 1003 }];
        let mut world = World::with(&config);
        let mut model = Model::default();
        for step in &steps {
            let now = world.replica.next();
            match operation(&world, step) {
                None => world.pass(1),
                Some(operation) => {
                    let got = world.change(&operation).map(|change| change.bind.uid.get());
                    prop_assert_eq!(got, model.apply(step, now), "{:?} in {:?}", step, steps);
                }
            }
        }
        check_maps(&mut world);
    }
}
