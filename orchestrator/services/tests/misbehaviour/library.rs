//! Two services and one vocabulary for both, so that there is one text of every scenario.

use quorate_attest::encoding::Bounded;
use quorate_attest::request::Reply;
use quorate_attest::service::{Answer, Query};
use quorate_kit::{Limits, Replica, Service};
use quorate_registry::client::{StateEntry, entry, outcome, record_query, records_query};
use quorate_registry::{NameRange, Register, Registry};
use quorate_services::Read;
use quorate_uid::client::{Listing, ask_uid, proven_uid};
use quorate_uid::{Gecos, Name, PAGE_LIMIT, Path, Profile, Uid, UidRegistry, uid_key};

use crate::keys::{MALLORY, key};
use crate::world::client_key;

pub const MEMORY: u64 = 64 << 20;
const LIMITS: Limits =
    Limits { memory_bytes: MEMORY, state_bytes: 16 << 20, session_bytes: 4 << 20, change_bytes: 4 << 20 };

/// Clients that may change something: admins of the UID registry. The service registry needs none.
const WRITERS: [&str; 15] = [
    "after", "again", "another", "before", "between", "client", "deceived", "first", "further", "hasty",
    "owner", "rival", "told", "victim", "writer",
];

/// Which service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// Services have endpoints.
    Registry,
    /// UIDs have users.
    Uid,
}

/// What a client asks for. Values differ, because no name belongs to two UIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Registers the service of this number with this endpoint, or adds a user of this UID and name.
    Bind(u32, &'a str),
    /// Deregisters the service, or deletes the user.
    Free(u32),
    /// An operation that no service has.
    Nothing,
}

/// Takes inputs, gives outputs.
pub type Handler = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send>;

/// What liars bind instead of the value that they were told.
pub fn forged(key: u32, salt: u8) -> String {
    format!("{MALLORY}-{salt}-{key}")
}

impl Library {
    pub fn handler(self) -> Handler {
        fn handler<S: Service + 'static>() -> Handler {
            let mut replica = Replica::<S>::new(LIMITS);
            Box::new(move |input| replica.handle(input))
        }
        match self {
            Self::Registry => handler::<Registry>(),
            Self::Uid => handler::<UidRegistry>(),
        }
    }

    pub fn config(self) -> Vec<u8> {
        match self {
            Self::Registry => quorate_registry::Config::default().encoded(),
            Self::Uid => {
                let writers = WRITERS.into_iter().map(client_key);
                let admins = writers.chain([key(&[MALLORY])]).map(|admin| admin.public()).collect();
                quorate_uid::Config { admins, ..quorate_uid::testing::config() }.encoded()
            }
        }
    }

    /// Number and body of the operation.
    pub fn operation(self, change: Change<'_>) -> (u16, Vec<u8>) {
        match (self, change) {
            (_, Change::Nothing) => (0, Vec::new()),
            (Self::Registry, Change::Bind(key, value)) => of_registry(&registration(key, value, 0)),
            (Self::Registry, Change::Free(key)) => {
                let name = service_name(key).into_bytes();
                of_registry(&quorate_registry::Operation::Deregister {
                    name,
                    expected: None,
                    previous: false,
                })
            }
            (Self::Uid, Change::Bind(key, value)) => {
                let profile = Profile {
                    name: Name::new(value).expect("a name"),
                    gecos: Gecos::new("Somebody").expect("text"),
                    home: Path::new("/home/somebody").expect("a path"),
                    shell: Path::new("/bin/sh").expect("a path"),
                };
                of_uid(&quorate_uid::Operation::AddUser { uid: uid(key), counter: 1, profile })
            }
            (Self::Uid, Change::Free(key)) => {
                of_uid(&quorate_uid::Operation::DelUser { uid: uid(key), counter: 2 })
            }
        }
    }

    /// What liars execute in the place of an operation: another value is bound, and nothing is freed.
    pub fn twisted(self, op: u16, body: &[u8], salt: u8) -> (u16, Vec<u8>) {
        let bound = match self {
            Self::Registry => match quorate_registry::Operation::decode(op, body) {
                Ok(quorate_registry::Operation::Register(Register { name, .. })) => Some(service_key(&name)),
                _ => None,
            },
            Self::Uid => match quorate_uid::Operation::decode(op, body) {
                Ok((quorate_uid::Operation::AddUser { uid, .. }, _)) => Some(uid.get()),
                _ => None,
            },
        };
        match bound {
            Some(key) => self.operation(Change::Bind(key, &forged(key, salt))),
            None => (0, vec![salt]),
        }
    }

    /// Asserts that this is the result of a change.
    pub fn check(self, change: Change<'_>, reply: &Reply) {
        let (op, _) = self.operation(change);
        match self {
            Self::Registry => drop(outcome(op, reply).expect("the result of this operation")),
            Self::Uid => {
                let result =
                    quorate_uid::Answer::decode(op, &reply.body).expect("a result of this operation");
                let quorate_uid::Answer::Changed(changed) = result else {
                    panic!("{result:?} of {change:?}")
                };
                let (uid, name) = (changed.bind.uid.get(), changed.bind.name.as_str());
                match change {
                    Change::Bind(key, value) => assert_eq!((uid, name), (key, value)),
                    Change::Free(key) => assert_eq!(uid, key),
                    Change::Nothing => panic!("{changed:?} came of nothing"),
                }
            }
        }
    }

    /// Asks what is bound to a key.
    pub fn ask(self, key: u32) -> Query {
        match self {
            Self::Registry => record_query(service_name(key).as_bytes()),
            Self::Uid => ask_uid(key),
        }
    }

    /// The value that the answer to [`Self::ask`] proves.
    pub fn value(self, key: u32, read: &Read<Answer>) -> Option<String> {
        match (self, &read.value) {
            (Self::Registry, Answer::Present(proved)) => {
                let StateEntry::Record(found) = entry(&proved.key, &proved.value).expect("an entry") else {
                    panic!("{proved:?} in the place of a record")
                };
                Some(String::from_utf8(found.record.value).expect("text"))
            }
            (Self::Registry, _) => None,
            (Self::Uid, answer) => {
                let entry = proven_uid(key, answer, &read.proof.receipt.receipt.state).expect("proved");
                Some(entry?.user()?.profile.name.as_str().to_owned())
            }
        }
    }

    /// Asks for everything that is bound.
    pub fn ask_all(self) -> Query {
        match self {
            Self::Registry => records_query(&NameRange::prefix(b""), 100).expect("all names"),
            Self::Uid => Query::Range { low: uid_key(0), high: uid_key(u32::MAX), limit: PAGE_LIMIT },
        }
    }

    /// The keys that the answer to [`Self::ask_all`] proves to be bound.
    pub fn keys(self, read: &Read<Answer>) -> Vec<u32> {
        match (self, &read.value) {
            (Self::Registry, Answer::Range { proof, more: false }) => {
                let key = |proved: &quorate_attest::state_tree::EntryProof| {
                    let StateEntry::Record(found) = entry(&proved.key, &proved.value).expect("an entry")
                    else {
                        panic!("{proved:?} in the place of a record")
                    };
                    service_key(&found.name)
                };
                proof.entries.iter().map(key).collect()
            }
            (Self::Registry, other) => panic!("{other:?} in the place of a whole list"),
            (Self::Uid, answer) => {
                let state = read.proof.receipt.receipt.state;
                let mut listing = Listing::of_users(state);
                listing.add(answer, &state).expect("proved");
                let entries = listing.complete().expect("the whole list");
                let user = |entry: quorate_uid::Entry| Some(entry.user()?.uid.get());
                entries.into_iter().filter_map(user).collect()
            }
        }
    }
}

/// The registration of a service, which a lease keeps.
pub fn registration(key: u32, value: &str, lease: u64) -> quorate_registry::Operation {
    let (name, value) = (service_name(key).into_bytes(), value.as_bytes().to_vec());
    quorate_registry::Operation::Register(Register { name, value, lease, expected: None, previous: false })
}

/// Number and body of an operation of the service registry.
pub fn of_registry(operation: &quorate_registry::Operation) -> (u16, Vec<u8>) {
    (operation.op(), operation.body())
}

fn of_uid(operation: &quorate_uid::Operation) -> (u16, Vec<u8>) {
    (operation.op(), operation.body(None))
}

fn uid(key: u32) -> Uid {
    Uid::new(key).expect("a UID")
}

fn service_name(key: u32) -> String {
    format!("service-{key}")
}

fn service_key(name: &[u8]) -> u32 {
    let name = str::from_utf8(name).expect("text");
    name.strip_prefix("service-").and_then(|key| key.parse().ok()).expect("a name of these scenarios")
}
