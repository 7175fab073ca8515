//! What clients, replicas and readers of ordered services say to each other: what decodes has one encoding.

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::{BODY_LIMIT, Reply, Request};
use quorate_attest::service::{
    Answer, Applied, Executed, Genesis, Input, Ordered, Output, Query, ServiceReceipt,
    ServiceReceiptCertificate, ServiceSpec, StateEntry,
};
use quorate_attest::state_tree::{AbsenceProof, EntryProof, RangeProof, StateCommitment};
use quorate_attest::statement::Statement;
use quorate_registry::endpoint::Endpoints;
use quorate_registry::{Outcome, StateKey};
use quorate_services::Head;
use quorate_uid::{Bind, Change, Entry, NameRecord, UidRecord};

use crate::codec::{bounded, read};
use crate::cut::Cut;
use crate::must;

/// How many types a first byte chooses from.
pub const TYPES: usize = 32;

/// Decodes the bytes as the type that the first one names.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    let (choice, number) = (cut.below(TYPES), cut.byte());
    let bytes = cut.rest();
    match choice {
        0 => drop(bounded::<Input>(bytes)),
        1 => drop(bounded::<Output>(bytes)),
        2 => drop(bounded::<Query>(bytes)),
        3 => drop(read::<Answer>(bytes, BODY_LIMIT)),
        4 => statement(bytes),
        5 => drop(bounded::<ServiceReceipt>(bytes)),
        6 => drop(bounded::<ServiceReceiptCertificate>(bytes)),
        7 => specification(bytes),
        8 => drop(read::<Genesis>(bytes, BODY_LIMIT)),
        9 => drop(read::<Applied>(bytes, BODY_LIMIT)),
        10 => drop(read::<Executed>(bytes, BODY_LIMIT)),
        11 => drop(read::<Ordered>(bytes, BODY_LIMIT)),
        12 => drop(read::<StateEntry>(bytes, BODY_LIMIT)),
        13 => drop(bounded::<Request>(bytes)),
        14 => drop(bounded::<Reply>(bytes)),
        15 => drop(bounded::<EntryProof>(bytes)),
        16 => drop(bounded::<AbsenceProof>(bytes)),
        17 => drop(bounded::<RangeProof>(bytes)),
        18 => drop(bounded::<StateCommitment>(bytes)),
        19 => drop(bounded::<Head>(bytes)),
        20 => registry_operation(number, bytes),
        21 => drop(bounded::<Outcome>(bytes)),
        22 => registry_entry(number, bytes),
        23 => endpoints(bytes),
        24 => drop(quorate_registry::Config::decoded(bytes).map(|config| config.validate())),
        25 => uid_operation(number, bytes),
        26 => uid_answer(number, bytes),
        27 => drop(bounded::<UidRecord>(bytes)),
        28 => drop(bounded::<NameRecord>(bytes)),
        29 => uid_entry(bytes),
        30 => drop(quorate_uid::Config::decode(bytes)),
        _ => bind(bytes),
    }
}

/// The statement of a receipt: signed bytes that decode stand for one receipt.
fn statement(bytes: &[u8]) {
    let Some(statement) = bounded::<Statement>(bytes) else { return };
    if let Ok(receipt) = ServiceReceipt::from_statement(&statement) {
        assert_eq!(receipt.to_statement(), statement);
        assert_eq!(Some(receipt.log_size), receipt.number.checked_add(1));
        assert_eq!(bounded::<ServiceReceipt>(&receipt.encoded()), Some(receipt));
    }
}

fn specification(bytes: &[u8]) {
    let Some(spec) = bounded::<ServiceSpec>(bytes) else { return };
    if spec.validate().is_ok() {
        assert!(spec.vm_name(u16::MAX).len() <= 64 + 6);
    }
}

fn registry_operation(number: u8, bytes: &[u8]) {
    let number = u16::from(number % 14);
    let Ok(operation) = quorate_registry::Operation::decode(number, bytes) else { return };
    assert_eq!((operation.op(), operation.body()), (number, bytes.to_vec()));
    assert_eq!(operation.check(), Ok(()));
    if let quorate_registry::Operation::DeregisterRange(delete) = &operation
        && let Some((low, high)) = delete.range.keys()
    {
        assert!(low <= high, "a range of keys ends before it begins");
    }
}

/// Key and value of the state, as a reader gets them proved.
fn registry_entry(length: u8, bytes: &[u8]) {
    let (key, value) = bytes.split_at(bytes.len().min(usize::from(length)));
    if let Some(parsed) = StateKey::parse(key) {
        assert_eq!(parsed.to_bytes(), key);
    }
    if let Ok(entry) = quorate_registry::client::entry(key, value) {
        use quorate_registry::client::StateEntry;
        let again = match entry {
            StateEntry::Record(entry) => entry.record.encoded(),
            StateEntry::Lease { lease, .. } => lease.encoded(),
            StateEntry::LeaseName { .. } | StateEntry::Expiry { .. } => Vec::new(),
            StateEntry::Event(event) => event.event.encoded(),
            StateEntry::LowestEvent(number) => to_bytes(&number),
            StateEntry::Config(config) => config.encoded(),
            StateEntry::Totals(totals) => totals.encoded(),
        };
        assert_eq!(again, value);
    }
}

fn endpoints(bytes: &[u8]) {
    if let Ok(endpoints) = Endpoints::from_value(bytes) {
        assert_eq!(endpoints.to_value(), bytes, "a second text of the same endpoints");
        endpoints.as_slice().iter().for_each(|endpoint| assert!(!endpoint.address().is_empty()));
    }
}

fn uid_operation(number: u8, bytes: &[u8]) {
    let number = u16::from(number % 12);
    let Ok((operation, approval)) = quorate_uid::Operation::decode(number, bytes) else { return };
    assert_eq!((operation.op(), operation.body(approval.as_ref())), (number, bytes.to_vec()));
}

fn uid_answer(number: u8, bytes: &[u8]) {
    let number = u16::from(number % 12);
    if let Ok(answer) = quorate_uid::Answer::decode(number, bytes) {
        assert_eq!(answer.body(), bytes);
    }
}

/// A record's lines are what passwd(5) and group(5) allow: one line, seven and four fields.
fn uid_entry(bytes: &[u8]) {
    let Some(user) = bounded::<Entry>(bytes).and_then(|entry| entry.user()) else { return };
    for (line, fields) in [(user.passwd_line(), 7), (user.group_line(), 4)] {
        assert_eq!(line.split(':').count(), fields, "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

fn bind(bytes: &[u8]) {
    let Some(bind) = bounded::<Bind>(bytes) else { return };
    let change = Change { number: 1, author: quorate_uid::testing::key(0).public(), approver: None, bind };
    assert_eq!(must(Change::decoded(&change.encoded())), change);
    if let Some(name) = quorate_uid::Name::new(change.bind.name.as_str()).err() {
        panic!("a name decodes that nobody may have: {name}");
    }
}
