//! What the NSS module is told: found and absent are proved, everything else is unavailable.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_gateway::backend::Shared;
use quorate_gateway::nss::{Lookups, NssListener};
use quorate_nss_protocol::{Answer, Database, Found, Group, Passwd, Query, Request};
use quorate_uid::{Config, Gecos, Name, Operation, Path, Profile, Uid, UidRegistry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::fixture::{InMemory, key};

type Users = Arc<InMemory<UidRegistry>>;

fn profile(name: &str, gecos: &str, shell: &str) -> Profile {
    Profile {
        name: Name::new(name).unwrap(),
        gecos: Gecos::new(gecos).unwrap(),
        home: Path::new(&format!("/home/{name}")).unwrap(),
        shell: Path::new(shell).unwrap(),
    }
}

fn operate(users: &Users, operation: &Operation) {
    assert_eq!(users.by_other(&key(1), operation.op(), operation.body(None)), 0, "{operation:?}");
}

fn add(users: &Users, uid: u32, profile: Profile) {
    operate(users, &Operation::AddUser { uid: Uid::new(uid).unwrap(), counter: 1, profile });
}

/// Alice and Bob, and Carol who is gone.
pub fn users() -> Users {
    let users = InMemory::new(Config::usual(vec![key(1).public(), key(2).public()]).unwrap().encoded());
    add(&users, 1000, profile("alice", "Alice", "/bin/bash"));
    add(&users, 1001, profile("bob", "", "/bin/sh"));
    add(&users, 1002, profile("carol", "", "/bin/sh"));
    operate(&users, &Operation::DelUser { uid: Uid::new(1002).unwrap(), counter: 2 });
    users
}

struct Server {
    folder: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn new(users: &Users, max_age: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lookups = Lookups::new(Arc::clone(users) as Shared, max_age);
        let listener = NssListener::bind(&folder.path().join("nss"), lookups).await.unwrap();
        let task = tokio::spawn(async move {
            listener.serve().await;
        });
        Self { folder, task }
    }

    async fn connect(&self) -> Client {
        Client(UnixStream::connect(self.folder.path().join("nss")).await.unwrap())
    }
}

struct Client(UnixStream);

impl Client {
    async fn ask(&mut self, database: Database, query: Query) -> Answer {
        let request = Request { database, query };
        self.0.write_all(request.encode().unwrap().as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while Answer::length(&bytes).unwrap().is_none() {
            assert!(self.0.read_buf(&mut bytes).await.unwrap() > 0, "the gateway goes on");
        }
        Answer::decode(&request, &bytes).unwrap()
    }
}

fn alice() -> Passwd {
    Passwd {
        name: "alice".into(),
        uid: 1000,
        gid: 1000,
        gecos: "Alice".into(),
        home: "/home/alice".into(),
        shell: "/bin/bash".into(),
    }
}

#[tokio::test]
async fn users_and_groups_are_found_by_name_by_number_and_in_lists() {
    let server = Server::new(&users(), Duration::ZERO).await;
    let mut client = server.connect().await;
    let one = |passwd: Passwd| Answer::Found(Found::Passwd(vec![passwd]));
    assert_eq!(client.ask(Database::Passwd, Query::Name("alice".into())).await, one(alice()));
    assert_eq!(client.ask(Database::Passwd, Query::Id(1000)).await, one(alice()));
    let group = Answer::Found(Found::Group(vec![Group { name: "bob".into(), gid: 1001 }]));
    assert_eq!(client.ask(Database::Group, Query::Name("bob".into())).await, group);
    assert_eq!(client.ask(Database::Group, Query::Id(1001)).await, group);
    let Answer::Found(Found::Passwd(all)) = client.ask(Database::Passwd, Query::List(0)).await else {
        panic!("no list")
    };
    assert_eq!(all.iter().map(|user| user.uid).collect::<Vec<_>>(), [1000, 1001]);
    assert_eq!(client.ask(Database::Passwd, Query::List(1002)).await, Answer::Absent);
}

#[tokio::test]
async fn who_is_not_there_or_gone_is_absent_by_proof() {
    let server = Server::new(&users(), Duration::ZERO).await;
    let mut client = server.connect().await;
    for name in ["nobody-has-it", "carol", "Upper", "a:b", "root", "ä"] {
        assert_eq!(client.ask(Database::Passwd, Query::Name(name.into())).await, Answer::Absent, "{name}");
    }
    for uid in [0, 999, 1002, 65_534, u32::MAX] {
        assert_eq!(client.ask(Database::Passwd, Query::Id(uid)).await, Answer::Absent, "{uid}");
        assert_eq!(client.ask(Database::Group, Query::Id(uid)).await, Answer::Absent, "{uid}");
    }
}

#[tokio::test]
async fn with_more_than_f_silent_replicas_nothing_is_absent_and_everything_unavailable() {
    let users = users();
    for max_age in [Duration::ZERO, Duration::from_secs(3600)] {
        let server = Server::new(&users, max_age).await;
        let mut client = server.connect().await;
        let queries = || {
            let names = ["alice", "carol", "nobody-has-it", "Upper"].map(|name| Query::Name(name.into()));
            names.into_iter().chain([Query::Id(1000), Query::Id(5), Query::List(0), Query::List(5000)])
        };
        users.silence(1);
        for query in queries() {
            let answer = client.ask(Database::Passwd, query.clone()).await;
            assert!(!matches!(answer, Answer::Unavailable { .. }), "f silent replicas are borne: {query:?}");
        }
        users.silence(2);
        for query in queries() {
            for database in [Database::Passwd, Database::Group] {
                let Answer::Unavailable { reason } = client.ask(database, query.clone()).await else {
                    panic!("{query:?} was answered without a quorum");
                };
                assert!(reason.starts_with("QuorumUnreachable"), "{reason}");
            }
        }
        users.silence(0);
        assert!(matches!(client.ask(Database::Passwd, Query::Id(1000)).await, Answer::Found(_)));
    }
}

#[tokio::test]
async fn lookup_after_a_deletion_does_not_find_the_user() {
    let users = users();
    let server = Server::new(&users, Duration::ZERO).await;
    let mut client = server.connect().await;
    assert!(matches!(client.ask(Database::Passwd, Query::Name("bob".into())).await, Answer::Found(_)));
    operate(&users, &Operation::DelUser { uid: Uid::new(1001).unwrap(), counter: 2 });
    assert_eq!(client.ask(Database::Passwd, Query::Name("bob".into())).await, Answer::Absent);
    let rename =
        Operation::Rename { uid: Uid::new(1000).unwrap(), counter: 2, name: Name::new("al").unwrap() };
    operate(&users, &rename);
    assert_eq!(client.ask(Database::Passwd, Query::Name("alice".into())).await, Answer::Absent);
    assert!(matches!(client.ask(Database::Passwd, Query::Name("al".into())).await, Answer::Found(_)));
}

#[tokio::test]
async fn long_lists_come_in_parts_without_gaps() {
    let users = InMemory::new(Config::usual(vec![key(1).public(), key(2).public()]).unwrap().encoded());
    for uid in 1000..1600 {
        add(&users, uid, profile(&format!("u{uid}"), "", "/bin/sh"));
    }
    let server = Server::new(&users, Duration::ZERO).await;
    let mut client = server.connect().await;
    let (mut uids, mut from) = (Vec::new(), 0);
    while let Answer::Found(Found::Passwd(part)) = client.ask(Database::Passwd, Query::List(from)).await {
        assert!(part.len() <= quorate_nss_protocol::LINES_LIMIT);
        uids.extend(part.iter().map(|user| user.uid));
        from = uids.last().unwrap() + 1;
    }
    assert_eq!(uids, (1000..1600).collect::<Vec<_>>());
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_nothing_else() {
    let server = Server::new(&users(), Duration::ZERO).await;
    let nonsense: [&[u8]; 5] = [
        b"hello\n",
        &[0xff; 600],
        b"quorate-nss/2 passwd id 1\n",
        b"quorate-nss/1 passwd id 01\n",
        b"quorate-nss/1 shadow id 1\n",
    ];
    for bytes in nonsense {
        let mut client = server.connect().await;
        client.0.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Unread bytes make the end a reset.
        let _ = client.0.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    assert!(matches!(server.connect().await.ask(Database::Passwd, Query::Id(1000)).await, Answer::Found(_)));
}

#[tokio::test]
async fn socket_is_for_everybody_and_goes_with_the_gateway() {
    use std::os::unix::fs::PermissionsExt;
    let (users, folder) = (users(), tempfile::tempdir().unwrap());
    let path = folder.path().join("nss");
    let bind = |path: &FilePath| {
        let (lookups, path) = (Lookups::new(Arc::clone(&users) as Shared, Duration::ZERO), path.to_owned());
        async move { NssListener::bind(&path, lookups).await }
    };
    let listener = bind(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert!(bind(&path).await.is_err(), "somebody listens there");
    drop(listener);
    assert!(!path.exists());
    // What a killed process left behind is replaced; a file that is no socket is not.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(bind(&path).await.is_ok());
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert!(bind(&file).await.is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}
