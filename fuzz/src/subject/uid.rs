//! The registry of UIDs: both of its maps stay injective.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, from_bytes};
use quorate_attest::id::VmId;
use quorate_attest::key::SecretKey;
use quorate_attest::request::Reply;
use quorate_attest::state_tree::StateTree;
use quorate_uid::testing::{self, Script};
use quorate_uid::{
    Approval, Attributes, Bind, Change, Gecos, Holder, Name, NameRecord, Operation, PAGE_LIMIT, Path,
    Profile, REFUSED, Request, SYSTEM_END, Subject as Who, UidRecord, UidRegistry, history_key, name_key, op,
    uid_key, uid_of_key,
};

use crate::cut::Cut;
use crate::must;
use crate::world::{Draft, Subject};

/// The registry with the configuration of its own tests: three admins, few UIDs, a short quarantine.
#[derive(Debug)]
pub struct Uid;

impl Subject for Uid {
    type Service = UidRegistry;

    fn config() -> Vec<u8> {
        testing::config().encoded()
    }

    fn key(client: u8) -> SecretKey {
        testing::key(u64::from(client))
    }

    fn operation(cut: &mut Cut<'_>, draft: &Draft<'_>) -> (u16, Vec<u8>) {
        match chosen(cut, draft) {
            Some(operation) => {
                let approval = approval(cut, draft, &operation);
                (operation.op(), operation.body(approval.as_ref()))
            }
            None => (cut.word() % 12, cut.take(512).to_vec()),
        }
    }

    fn script(seed: u64, length: usize, instance: VmId, execute: &mut dyn FnMut(Vec<u8>) -> Option<Reply>) {
        let mut script = Script::new(seed, instance);
        for _ in 0..length {
            if let Some(reply) = execute(script.request().encoded()) {
                script.observe(&reply);
            }
        }
    }

    fn check(tree: &StateTree) {
        let mut holders: BTreeMap<String, u32> = BTreeMap::new();
        let (mut changes, mut names) = (0u32, 0);
        for (key, value) in tree.from(&[1]) {
            if let Some(uid) = uid_of_key(key) {
                let record = must(UidRecord::decoded(value));
                check_record(tree, uid, &record);
                if let Holder::Bound(Profile { name, .. }) = record.holder {
                    let former = holders.insert(name.as_str().to_owned(), uid);
                    assert_eq!(former, None, "two UIDs have the name {name}");
                }
            } else if let Some(name) = key.strip_prefix(&[2, b'n']) {
                names += u32::from(check_name(tree, name, &must(NameRecord::decoded(value))));
            } else if key.starts_with(&[2, b'h']) {
                changes += 1;
            }
        }
        assert_eq!(names as usize, holders.len(), "names and UIDs that are bound");
        let (users, counted, _): (u32, u32, u32) =
            must(from_bytes(tree.get(&[2, b'c']).unwrap_or_default(), 12));
        assert_eq!((users as usize, counted), (holders.len(), changes), "totals");
    }

    fn check_entry(key: &[u8], value: &[u8]) {
        match key {
            [2, b'h', rest @ ..] => {
                let Change { bind, .. } = must(Change::decoded(value));
                assert_eq!(history_key(bind.uid.get(), bind.counter), [&key[..2], rest].concat());
            }
            [2, b'u', ..] => drop(must(UidRecord::decoded(value))),
            [2, b'n', ..] => drop(must(NameRecord::decoded(value))),
            [2, b'a' | b's', ..] => assert!(value.is_empty()),
            _ => assert!(matches!(key, [2, b'g' | b'c']), "an entry that the registry does not know"),
        }
    }
}

/// A [`Change`] whose keys are bytes.
#[derive(BorshSerialize, BorshDeserialize)]
struct Kept {
    bind: Bind,
    number: u64,
    author: [u8; 32],
    approver: Option<[u8; 32]>,
}

fn check_record(tree: &StateTree, uid: u32, record: &UidRecord) {
    assert!(!REFUSED.contains(&uid), "UID {uid} was bound");
    assert!(record.counter > 0);
    let mut previous = [0; 32];
    for counter in 1..=record.counter {
        let value = tree.get(&history_key(uid, counter)).unwrap_or_default();
        let Kept { bind, .. } = must(from_bytes(value, Change::LIMIT));
        assert_eq!((bind.uid.get(), bind.counter, bind.previous), (uid, counter, previous), "history");
        previous = bind.digest();
    }
    assert_eq!(record.digest, previous, "the record is not of the newest change");
    if let Holder::Bound(Profile { name, .. }) = &record.holder {
        let value = tree.get(&name_key(name.as_str())).unwrap_or_default();
        let bound = must(NameRecord::decoded(value));
        assert!(matches!(bound, NameRecord::Bound(other) if other.get() == uid), "{name} is not of {uid}");
    }
}

/// Whether the name is bound; then its UID has it.
fn check_name(tree: &StateTree, name: &[u8], record: &NameRecord) -> bool {
    let NameRecord::Bound(uid) = record else { return false };
    let holder = must(UidRecord::decoded(tree.get(&uid_key(uid.get())).unwrap_or_default())).holder;
    assert!(matches!(holder, Holder::Bound(profile) if profile.name.as_str().as_bytes() == name));
    true
}

fn chosen(cut: &mut Cut<'_>, draft: &Draft<'_>) -> Option<Operation> {
    let number = cut.below(11) as u16;
    if number == op::LOOKUP {
        let subject = if cut.flag() { Who::Uid(uid(cut)) } else { Who::Name(name(cut)?) };
        return Some(Operation::Lookup { subject });
    }
    if number == op::ALLOC_UID {
        return Some(Operation::AllocUid { profile: profile(cut)? });
    }
    let (at, limit) = (uid(cut), 1 + cut.word() % PAGE_LIMIT);
    match number {
        op::LIST => return Some(Operation::List { from: at, limit }),
        op::HISTORY => return Some(Operation::History { uid: at, from: cut.number(), limit }),
        _ => {}
    }
    let known = draft.tree.get(&uid_key(at)).and_then(|value| UidRecord::decoded(value).ok());
    let counter = match cut.byte() {
        255 => cut.number(),
        _ => known.as_ref().map_or(1, |record| record.counter + 1),
    };
    let uid = quorate_uid::Uid::new(at).ok()?;
    Some(match number {
        op::ADD_USER => Operation::AddUser { uid, counter, profile: profile(cut)? },
        op::ADD_SYSTEM_USER => Operation::AddSystemUser { uid, counter, profile: profile(cut)? },
        op::DEL_USER => Operation::DelUser { uid, counter },
        op::RENAME => Operation::Rename { uid, counter, name: name(cut)? },
        op::SET_ATTR => Operation::SetAttr { uid, counter, attributes: attributes(cut) },
        op::REISSUE => {
            let previous = known.map_or([0; 32], |record| record.digest);
            Operation::Reissue { uid, counter, previous, profile: profile(cut)? }
        }
        _ => return None,
    })
}

fn approval(cut: &mut Cut<'_>, draft: &Draft<'_>, operation: &Operation) -> Option<Approval> {
    if !operation.needs_approval() && cut.byte() != 255 {
        return None;
    }
    let form = cut.below(8);
    if form == 7 {
        return None;
    }
    let sequence = draft.sequence + u64::from(form == 6);
    let request = Request { instance: &draft.instance, client: &draft.client, sequence, operation };
    Some(request.approve(&testing::key(cut.below(5) as u64)))
}

fn uid(cut: &mut Cut<'_>) -> u32 {
    match cut.below(16) {
        0 => cut.one(&REFUSED),
        1 => u32::from(cut.word()),
        2 => cut.number() as u32,
        3 | 4 => cut.below(4) as u32,
        5 => 65_530 + cut.below(16) as u32,
        _ => SYSTEM_END - 1 + cut.below(24) as u32,
    }
}

fn name(cut: &mut Cut<'_>) -> Option<Name> {
    match cut.below(16) {
        0 => Name::new(std::str::from_utf8(cut.take(40)).ok()?).ok(),
        _ => Name::new(&format!("user-{}", cut.below(12))).ok(),
    }
}

fn path(cut: &mut Cut<'_>) -> Option<Path> {
    match cut.below(16) {
        0 => Path::new(std::str::from_utf8(cut.take(300)).ok()?).ok(),
        1 => Path::new("/bin/evil").ok(),
        2 => Path::new("/usr/sbin/nologin").ok(),
        _ => Path::new("/bin/sh").ok(),
    }
}

fn gecos(cut: &mut Cut<'_>) -> Option<Gecos> {
    match cut.below(16) {
        0 => Gecos::new(std::str::from_utf8(cut.take(140)).ok()?).ok(),
        _ => Gecos::new("Somebody").ok(),
    }
}

fn profile(cut: &mut Cut<'_>) -> Option<Profile> {
    Some(Profile { name: name(cut)?, gecos: gecos(cut)?, home: path(cut)?, shell: path(cut)? })
}

fn attributes(cut: &mut Cut<'_>) -> Attributes {
    let which = cut.byte();
    Attributes {
        gecos: (which & 1 != 0).then(|| gecos(cut)).flatten(),
        home: (which & 2 != 0).then(|| path(cut)).flatten(),
        shell: (which & 4 != 0).then(|| path(cut)).flatten(),
    }
}
