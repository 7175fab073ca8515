//! The NSS module as the C library loads it: statuses by what the gateway says, or does not say.

mod bench;

use std::io::{Read, Write};
use std::process::Command;

use bench::Bench;
use quorate_nss_protocol::{Database, Query, Request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

const ALICE: &str = "alice:x:1000:1000:Alice Liddell:/home/alice:/bin/sh";
const BOB: &str = "bob:x:1001:1001::/home/bob:/bin/sh";

/// `EIO`, in which glibc's callers see that nothing is known.
const UNAVAIL: &str = "UNAVAIL errno=5";

/// A gateway that knows alice and bob.
fn gateway(request: &Request) -> Vec<u8> {
    let users = [("alice", 1000, ALICE), ("bob", 1001, BOB)];
    let found = users.iter().find(|(name, id, _)| match &request.query {
        Query::Name(wanted) => name == wanted,
        Query::Id(wanted) => id == wanted,
        Query::List(from) => id >= from,
    });
    match (found, request.database) {
        (None, _) => "absent\n".into(),
        (Some((_, _, line)), Database::Passwd) => format!("found 1\n{line}\n").into_bytes(),
        (Some((name, id, _)), Database::Group) => format!("found 1\n{name}:x:{id}:\n").into_bytes(),
    }
}

/// Every way to ask, with what a program sees when nothing is known.
const QUESTIONS: [(&[&str], &str); 7] = [
    (&["direct", "passwd", "name", "alice"], UNAVAIL),
    (&["direct", "passwd", "id", "1000"], UNAVAIL),
    (&["direct", "passwd", "all", ""], "UNAVAIL errno=5 UNAVAIL"),
    (&["direct", "group", "name", "alice"], UNAVAIL),
    (&["direct", "group", "id", "1000"], UNAVAIL),
    (&["direct", "group", "all", ""], "UNAVAIL errno=5 UNAVAIL"),
    (&["direct", "initgroups", "name", "alice"], "UNAVAIL groups=1"),
];

fn assert_unavailable(bench: &Bench, what: &str) {
    for (question, expected) in QUESTIONS {
        assert_eq!(bench.program(question), expected, "{what}: {question:?}");
    }
}

#[test]
fn test_proved_entry_is_success() {
    let bench = Bench::new();
    bench.answer(gateway);
    for (question, expected) in [
        (["direct", "passwd", "name", "alice"], format!("SUCCESS errno=0 {ALICE}")),
        (["direct", "passwd", "id", "1001"], format!("SUCCESS errno=0 {BOB}")),
        (["direct", "group", "name", "alice"], "SUCCESS errno=0 alice:x:1000:".into()),
        (["direct", "group", "id", "1001"], "SUCCESS errno=0 bob:x:1001:".into()),
        (["direct", "initgroups", "name", "alice"], "SUCCESS groups=1".into()),
        (["direct", "passwd", "all", ""], format!("SUCCESS errno=0 {ALICE} {BOB} NOTFOUND")),
        (["direct", "group", "all", ""], "SUCCESS errno=0 alice:x:1000: bob:x:1001: NOTFOUND".into()),
    ] {
        assert_eq!(bench.program(&question), expected, "{question:?}");
    }
}

#[test]
fn test_proved_absence_is_notfound() {
    let bench = Bench::new();
    bench.answer(gateway);
    for database in ["passwd", "group"] {
        assert_eq!(bench.program(&["direct", database, "name", "mallory"]), "NOTFOUND errno=0");
        assert_eq!(bench.program(&["direct", database, "id", "4294967295"]), "NOTFOUND errno=0");
        assert_eq!(bench.program(&["direct", database, "name", "no such user"]), "NOTFOUND errno=0");
    }
    assert_eq!(bench.program(&["direct", "initgroups", "name", "mallory"]), "NOTFOUND groups=1");
}

#[test]
fn test_missing_gateway_is_unavailable() {
    let bench = Bench::new();
    assert_unavailable(&bench, "nobody listens");
    std::fs::write(bench.socket(), "").unwrap();
    assert_unavailable(&bench, "the socket is a file");
}

#[test]
fn test_no_quorum_is_unavailable() {
    let bench = Bench::new();
    bench.answer(|_| b"unavailable no quorum: 3 of 7 replicas answer, 5 needed\n".to_vec());
    assert_unavailable(&bench, "no quorum");
}

#[test]
fn test_malformed_or_foreign_answer_is_unavailable() {
    let answers: [&[u8]; 14] = [
        b"\n",
        b"found\n",
        b"found 0\n",
        b"found 1\nalice\n",
        b"found 1\n+::0:0::/:/bin/sh\n",
        b"ABSENT\n",
        b"absent\nabsent\n",
        b"found 1\nroot:x:0:0:root:/root:/bin/sh\n",
        b"found 1\nroot:x:0:\n",
        b"found 1\nalice:x:1000:1000:a\0b:/home/alice:/bin/sh\n",
        b"\xff\xfe\n",
        b"found 99999999999999999999\n",
        b"found 257\n",
        b"absent",
    ];
    for answer in answers {
        let bench = Bench::new();
        // What is not a whole answer ends here, so that the test need not wait for the time limit.
        bench.serve(move |mut stream| {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(answer);
        });
        // Lookups of alice by name: id 0 for root would be another's.
        for (question, expected) in QUESTIONS.iter().filter(|(question, _)| question[2] != "all") {
            assert_eq!(bench.program(question), *expected, "{question:?} with {answer:?}");
        }
    }
}

#[test]
fn test_enumeration_that_goes_back_or_breaks_off_is_unavailable() {
    let listings: [fn(u32) -> Vec<u8>; 4] = [
        |_| format!("found 1\n{ALICE}\n").into_bytes(),
        |from| {
            if from == 0 {
                format!("found 1\n{ALICE}\n").into_bytes()
            } else {
                b"unavailable gone\n".to_vec()
            }
        },
        |_| format!("found 2\n{BOB}\n{ALICE}\n").into_bytes(),
        |from| if from == 0 { format!("found 1\n{ALICE}\n").into_bytes() } else { b"nonsense\n".to_vec() },
    ];
    for (number, listing) in listings.into_iter().enumerate() {
        let bench = Bench::new();
        bench.answer(move |request| match request.query {
            Query::List(from) => listing(from),
            _ => b"absent\n".to_vec(),
        });
        assert_eq!(
            bench.program(&["direct", "passwd", "all", ""]),
            "UNAVAIL errno=5 UNAVAIL",
            "listing {number}"
        );
    }
}

#[test]
fn test_gateway_that_closes_at_once_neither_kills_the_program_nor_is_absence() {
    let bench = Bench::new();
    // Sending to a closed socket would raise SIGPIPE, which ends a program.
    bench.serve(drop);
    assert_unavailable(&bench, "closed at once");
}

#[test]
fn test_hanging_dribbling_or_endless_gateway_is_unavailable_after_the_time_limit() {
    let bench = Bench::new();
    bench.configure(&format!("socket = {}\ntimeout_ms = 300\n", bench.socket().display()));
    bench.serve(|mut stream| {
        // Reads everything, says nothing, until the module closes.
        while stream.read(&mut [0; 512]).is_ok_and(|read| read > 0) {}
    });
    assert_unavailable(&bench, "hanging");
    drop(bench);

    let bench = Bench::new();
    bench.configure(&format!("socket = {}\ntimeout_ms = 300\n", bench.socket().display()));
    // Each byte is new hope; the limit is one for the whole call.
    bench.serve(|mut stream| while stream.write_all(b"a").is_ok() {});
    assert_unavailable(&bench, "endless line");
    drop(bench);

    let bench = Bench::new();
    bench.configure(&format!("socket = {}\ntimeout_ms = 300\n", bench.socket().display()));
    bench.serve(|mut stream| {
        let _ = stream.write_all(b"found 256\n");
        while stream.write_all(format!("{ALICE}\n").as_bytes()).is_ok() {}
    });
    assert_unavailable(&bench, "endless lines");
}

#[test]
fn test_gateway_that_accepts_nobody_is_unavailable_after_the_time_limit() {
    let bench = Bench::new();
    bench.configure(&format!("socket = {}\ntimeout_ms = 300\n", bench.socket().display()));
    let listener = std::os::unix::net::UnixListener::bind(bench.socket()).unwrap();
    assert_unavailable(&bench, "nobody accepts");
    drop((listener, bench));

    // With a full queue not even connecting succeeds.
    let bench = Bench::new();
    bench.configure(&format!("socket = {}\ntimeout_ms = 300\n", bench.socket().display()));
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(bench.socket()).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let waiting = std::os::unix::net::UnixStream::connect(bench.socket()).unwrap();
    assert_unavailable(&bench, "full queue");
    drop((listener, waiting));
}

#[test]
fn test_configuration_that_does_not_parse_is_unavailable_and_the_environment_is_not_asked() {
    let bench = Bench::new();
    bench.answer(gateway);
    let good = bench.socket();
    for bad in ["socket\n", "socket = relative\n", "unknown = 1\n", "timeout_ms = 0\n", &"#".repeat(5000)] {
        bench.configure(bad);
        assert_unavailable(&bench, bad);
    }
    bench.configure("socket = /nonexistent/nss.sock\n");
    for name in ["QUORATE_NSS_CONFIG", "QUORATE_NSS_SOCKET", "NSS_SOCKET", "SOCKET"] {
        let mut getent = Command::new("getent");
        let output = bench.run(getent.args(["-s", "quorate", "passwd", "alice"]).env(name, &good));
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
}

#[test]
fn test_case_10_getent_prints_the_line_and_the_c_library_tells_unavailable_from_absent() {
    let bench = Bench::new();
    bench.answer(gateway);
    for key in ["alice", "1000"] {
        let output = bench.run(Command::new("getent").args(["-s", "quorate", "passwd", key]));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{ALICE}\n"));
        assert_eq!(output.status.code(), Some(0));
    }
    let output = bench.run(Command::new("getent").args(["-s", "quorate", "passwd"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{ALICE}\n{BOB}\n"));
    let output = bench.run(Command::new("getent").args(["-s", "quorate", "group", "bob"]));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "bob:x:1001:\n");

    let line = "quorate [UNAVAIL=return] files";
    // Proved absent here: the next source is asked.
    assert!(bench.program(&["lookup", line, "name", "root"]).starts_with("found error=0 root:"));
    drop(bench);
    let bench = Bench::new();
    bench.answer(|_| b"unavailable no quorum: 3 of 7 replicas answer, 5 needed\n".to_vec());
    // Nobody can say: nothing is asked any more, and the caller sees an error instead of "no such user".
    assert_eq!(bench.program(&["lookup", line, "name", "root"]), "none error=5");
    assert_eq!(bench.program(&["lookup", line, "id", "0"]), "none error=5");
    // Without the rule the fall-through that an attacker hopes for.
    assert!(bench.program(&["lookup", "quorate files", "name", "root"]).starts_with("found error=0 root:"));
    let output = bench.run(Command::new("getent").args(["-s", "quorate", "passwd", "alice"]));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn test_user_and_groups_are_what_id_would_print() {
    let bench = Bench::new();
    bench.answer(gateway);
    assert_eq!(bench.program(&["groups", "quorate", "alice"]), "uid=1000 groups=1000(alice)");
    assert_eq!(
        bench.program(&["groups", "files quorate [UNAVAIL=return]", "bob"]),
        "uid=1001 groups=1001(bob)"
    );
    assert_eq!(bench.program(&["groups", "quorate", "mallory"]), "none");
}

#[test]
fn test_buffer_that_is_too_small_is_tryagain_with_erange() {
    let bench = Bench::new();
    bench.answer(gateway);
    for bytes in ["0", "1", "8", "20"] {
        let question = ["direct", "passwd", "name", "alice", bytes];
        assert_eq!(bench.program(&question), "TRYAGAIN errno=34", "{bytes} bytes");
    }
    assert_eq!(bench.program(&["direct", "group", "name", "alice", "9"]), "TRYAGAIN errno=34");
}

#[test]
fn test_repeated_lookups_leave_no_open_files() {
    let bench = Bench::new();
    bench.answer(gateway);
    assert_eq!(bench.program(&["repeat", "500", "alice"]), "succeeded=500 leaked=0");
    bench.configure("socket = /nonexistent/nss.sock\n");
    assert_eq!(bench.program(&["repeat", "500", "alice"]), "succeeded=0 leaked=0");
}
