//! Ordered services as their users see them: `etcdctl` and `getent` through the gateway, with real processes, while replicas
//! die, lie, move and are replaced.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use quorate_tests::serving::Serving;
use quorate_tests::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(90);
/// A host that answers every request to its VM's service with CONFLICT instead of OK.
const LIAR: &str = "refused-replies";

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Services 12e, case 4; 2e, case 10; the attacks SILENT and LIAR with one replica each, of which the group tolerates one
/// liar, and the orchestrators one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_and_getent_work_while_one_replica_is_killed_and_another_lies() {
    let mut serving = Serving::up(&[("host-registry-1", LIAR), ("host-uid-1", LIAR)]).await;
    serving.run(&["uid", "add", "alice", "--uid", "1000", "--gecos", "Alice"]);
    serving.kill_replica(0).await;

    assert_eq!(serving.etcd(&["put", "/web/a", "10.0.0.1:80"]), "OK\n");
    assert_eq!(serving.etcd(&["put", "/web/b", "10.0.0.2:80"]), "OK\n");
    assert_eq!(serving.etcd(&["get", "--prefix", "/web/"]), "/web/a\n10.0.0.1:80\n/web/b\n10.0.0.2:80\n");
    assert_eq!(serving.etcd(&["get", "/nothing"]), "");

    let mut watch =
        serving.etcdctl(&["watch", "--prefix", "/watched/"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    until("an event", PATIENCE, async || match serving.etcd(&["put", "/watched/x", "1"]).as_str() {
        "OK\n" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    let event: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
    assert_eq!(event, ["PUT", "/watched/x", "1"]);
    watch.kill().unwrap();
    watch.wait().unwrap();

    let granted = serving.etcd(&["lease", "grant", "8"]);
    let lease = granted.split_whitespace().nth(1).expect("an identifier").to_owned();
    serving.etcd(&["put", "/leased", "soon gone", &format!("--lease={lease}")]);
    until("the lease ends", PATIENCE, async || match serving.etcd(&["get", "/leased"]).as_str() {
        "" => Ok(()),
        there => Err(there.to_owned()),
    })
    .await;

    let won =
        serving.etcd_txn("value(\"/web/a\") = \"10.0.0.1:80\"\n\nput /web/a 10.0.0.9:80\n\nget /web/b\n\n");
    assert!(won.starts_with("SUCCESS"), "{won}");
    let lost = serving.etcd_txn("value(\"/web/a\") = \"10.0.0.1:80\"\n\nput /web/a never\n\nget /web/b\n\n");
    assert!(lost.starts_with("FAILURE") && lost.contains("10.0.0.2:80"), "{lost}");
    assert_eq!(serving.etcd(&["get", "/web/a"]), "/web/a\n10.0.0.9:80\n");

    let line = "alice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
    assert_eq!(text(&serving.lookup(&["getent", "passwd", "alice"])), line);
    assert_eq!(text(&serving.lookup(&["getent", "passwd", "1000"])), line);
    assert_eq!(text(&serving.lookup(&["id", "-u", "alice"])), "1000\n");
    assert_eq!(serving.lookup(&["getent", "passwd", "nobody-of-this-name"]).status.code(), Some(2));

    let proofs = serving.proofs();
    assert!(proofs.len() >= 10, "the gateway keeps the proofs of its answers: {proofs:?}");
    let verified = serving.verify(&proofs);
    assert!(verified.status.success(), "{verified:?}");
    let mut forged = std::fs::read(&proofs[0]).unwrap();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    let path = serving.folder().join("forged.answer");
    std::fs::write(&path, forged).unwrap();
    assert_eq!(serving.verify(&[path]).status.code(), Some(1));
}

/// Each command once, as an operator types it.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_services_change_and_show_what_they_say() {
    let serving = Serving::up(&[]).await;
    let second = serving.folder().join("keys/second-admin.client").display().to_string();
    serving.run(&["uid", "add", "alice", "--uid", "1000", "--gecos", "Alice"]);
    assert_eq!(serving.run(&["uid", "add", "bob"])["uid"], 1001, "the lowest that was never bound");
    let daemon = serving.run(&["uid", "add", "websrv", "--uid", "200", "--approve", &second]);
    assert_eq!((&daemon["uid"], &daemon["result"]), (&200.into(), &"ok".into()));
    assert_eq!(serving.run(&["uid", "set", "alice", "--gecos", "Alice A."])["counter"], 2);
    assert_eq!(serving.run(&["uid", "rename", "1000", "alicia"])["name"], "alicia");
    let line = "alicia:x:1000:1000:Alice A.:/home/alice:/bin/sh";
    assert_eq!(serving.run(&["uid", "show", "alicia"])["record"]["passwd"], line);
    assert_eq!(serving.run(&["uid", "show", "1000"])["record"]["passwd"], line);
    let passwd = serving.run(&["uid", "passwd"]);
    assert_eq!((passwd["lines"].as_array().unwrap().len(), &passwd["complete"]), (3, &true.into()));
    assert_eq!(serving.run(&["uid", "group"])["lines"][1], "alicia:x:1000:");
    assert_eq!(serving.run(&["uid", "del", "alicia"])["action"], "Delete");
    let listed = serving.run(&["uid", "list"]);
    assert_eq!((listed["users"].as_array().unwrap().len(), &listed["complete"]), (3, &true.into()));
    let changes = serving.run(&["uid", "history", "1000"])["changes"].clone();
    let actions: Vec<_> = changes.as_array().unwrap().iter().map(|change| change["action"].clone()).collect();
    assert_eq!(actions, ["Add", "SetAttributes", "Rename", "Delete"]);
    let refused = |words: &[&str], kind: &str| {
        let output = serving.quorate(words);
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_default();
        assert_eq!((output.status.code(), &error["error_kind"]), (Some(1), &kind.into()), "{output:?}");
    };
    refused(&["uid", "reissue", "1000", "carol", "--approve", &second], "CONFLICT");
    refused(&["uid", "add", "alicia"], "CONFLICT");
    assert_eq!(serving.quorate(&["uid", "show", "alicia"]).status.code(), Some(1), "there is none");

    let put = serving.run(&["registry", "put", "/web/a", "10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(put["version"], 1);
    serving.run(&["registry", "put", "/web/b", "text"]);
    let names = serving.run(&["registry", "list", "/web/"])["names"].clone();
    assert_eq!(names.as_array().unwrap().len(), 2);
    serving.run(&["registry", "del", "/web/b"]);
    assert_eq!(serving.quorate(&["registry", "get", "/web/b"]).status.code(), Some(1), "there is none");
    let quorum = serving.run(&["registry", "derive", "7", "2"])["quorum"].clone();
    assert_eq!(quorum, serde_json::json!({"min": 5, "max": 5}));
    refused(&["service", "call", "registry", "999"], "UNKNOWN_KIND");
    assert_eq!(serving.quorate(&["service", "get", "registry", "00"]).status.code(), Some(1), "no such key");
    serving.stop().await;
}

/// The VMs of a service are attested as all others are.
#[tokio::test(flavor = "multi_thread")]
async fn slots_of_a_replica_are_certified_as_those_of_any_vm() {
    let serving = Serving::up(&[]).await;
    serving.run(&["registry", "put", "/key", "value"]);
    for replica in 0..4 {
        let name = format!("registry-{replica}");
        until("a certified slot of each replica", PATIENCE, async || {
            let shown = serving.run(&["vm", "show", &name]);
            if shown["vm"]["head_slot"].as_u64().is_some_and(|slot| slot > 0) { Ok(()) } else { Err(shown) }
        })
        .await;
    }
    serving.stop().await;
}

/// One fault too many, first silent, then lying: nothing is answered, or what is answered is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn f_plus_one_silent_replicas_stop_every_answer_and_f_plus_one_liars_deceive() {
    let mut serving = Serving::up(&[]).await;
    serving.run(&["uid", "add", "alice", "--uid", "1000"]);
    assert_eq!(serving.etcd(&["put", "/key", "value"]), "OK\n");
    // Of whom the registry knows nothing, the next source is asked: that is what NOTFOUND does.
    assert!(text(&serving.lookup(&["getent", "passwd", "daemon"])).starts_with("daemon:"));
    for replica in 0..3 {
        serving.kill(&format!("host-uid-{replica}")).await;
        serving.kill(&format!("host-registry-{replica}")).await;
    }
    // What was certified before is still proved, by the one guest that is left and by receipts that the others have kept, unless
    // that guest has executed since what nobody else has.
    let kept = serving.quorate(&["uid", "show", "alice"]);
    match kept.status.code() {
        Some(0) => assert_eq!(quorate_tests::last_line(&kept.stdout)["result"], "present"),
        code => assert_eq!(code, Some(69), "{kept:?}"),
    }
    let refused = serving.quorate(&["uid", "add", "bob", "--uid", "1001"]);
    assert_eq!(refused.status.code(), Some(69), "one replica of four certifies nothing: {refused:?}");
    // Bob is ordered. Without him nobody can say how things are now.
    let answer = serving.quorate(&["uid", "show", "alice"]);
    assert_eq!(answer.status.code(), Some(69), "{answer:?}");
    for name in ["alice", "daemon"] {
        let lookup = serving.lookup(&["getent", "passwd", name]);
        assert!(text(&lookup).is_empty(), "UNAVAIL ends the search, NOTFOUND would go on: {lookup:?}");
    }
    let put = serving.etcdctl(&["put", "/key", "other"]).output().unwrap();
    assert!(!put.status.success(), "{put:?}");
    drop(serving);

    let mut deceived = Serving::up(&[("host-registry-0", LIAR), ("host-registry-1", LIAR)]).await;
    deceived.kill("host-registry-2").await;
    // The two liars agree with each other. Either they are believed, or all four replicas see f + 1 others who contradict
    // them, and stop.
    let answer = deceived.quorate(&["registry", "put", "/key", "value"]);
    let error: Value = serde_json::from_slice(&answer.stderr).unwrap_or_default();
    let broken = match answer.status.code() {
        Some(1) => error["error_kind"] == "CONFLICT",
        Some(69) => error["error_kind"] == "QuorumUnreachable",
        _ => false,
    };
    assert!(broken, "f + 1 liars leave nothing to rely on: {answer:?}");
}

/// A replica whose results differ from those of `f + 1` others finds out, says why, stops serving and keeps the evidence.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_differs_from_the_others_stops_serving_and_says_why() {
    let serving = Serving::up(&[("host-registry-1", LIAR)]).await;
    serving.run(&["registry", "put", "/key", "value"]);
    let shown = until("the liar's replica stops", PATIENCE, async || {
        let shown = serving.run(&["service", "show", "registry"]);
        let replicas = shown["replicas"].as_array().cloned().unwrap_or_default();
        let stopped = replicas.iter().find(|replica| replica["replica"] == 1).cloned().unwrap_or_default();
        if stopped["stopped"].is_null() { Err(shown) } else { Ok(stopped) }
    })
    .await;
    assert_eq!(shown["stopped"]["error_kind"], "ServiceStopped", "{shown}");
    let folder = serving.cluster.data_dir("orchestrator-1").join("evidence");
    let kept = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut kept = kept.filter(|path| path.display().to_string().contains("service-registry-"));
    let evidence = kept.next().expect("what the others signed is kept");
    let examine = |path: &Path| {
        let replicas = serving.folder().join("services.toml").display().to_string();
        let words = ["evidence", &path.display().to_string(), "--replicas", &replicas];
        serving.quorate(&words).status.code()
    };
    assert_eq!(examine(&evidence), Some(0), "anybody can check it");
    let mut forged = std::fs::read(&evidence).unwrap();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let path = serving.folder().join("forged");
    std::fs::write(&path, forged).unwrap();
    assert_eq!(examine(&path), Some(1), "a signature that does not hold convicts nobody");
    assert_eq!(serving.run(&["registry", "get", "/key"])["value"], "value");
}

/// A host that lies for a while: its replica stops, has the VM taken back, and serves again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_lied_to_is_rebuilt_from_a_slot_and_serves_again() {
    let serving = Serving::up(&[("host-registry-1", &format!("{LIAR}:3"))]).await;
    let mut puts = 0;
    let mut shown = async |stopped: bool| {
        until("the replica that was lied to", PATIENCE, async || {
            serving.run(&["registry", "put", &format!("/{puts}"), "value"]);
            puts += 1;
            let shown = serving.run(&["service", "show", "registry"]);
            let replicas = shown["replicas"].as_array().cloned().unwrap_or_default();
            let of_liar =
                replicas.iter().find(|replica| replica["replica"] == 1).cloned().unwrap_or_default();
            let fits = of_liar["executed"].is_u64() && of_liar["stopped"].is_null() != stopped;
            if fits { Ok(()) } else { Err(shown) }
        })
        .await;
    };
    shown(true).await;
    shown(false).await;
    let log = std::fs::read_to_string(serving.cluster.log_file("host-registry-1")).unwrap();
    assert!(log.contains("the VM is taken back"), "{log}");
    // It is one of the two that are needed now.
    let mut serving = serving;
    serving.kill_replica(0).await;
    assert_eq!(serving.run(&["registry", "get", "/0"])["value"], "value");
}

/// A replica is moved with `quorate migrate` while requests come in; none fails and the moved replica goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_moves_to_another_host_while_the_service_answers() {
    let serving = Serving::up(&[]).await;
    let moving = std::thread::scope(|scope| {
        let moved = scope.spawn(|| serving.run(&["migrate", "registry-2", "--to", "host-a"]));
        for number in 0..20 {
            assert_eq!(serving.etcd(&["put", &format!("/{number}"), "value"]), "OK\n");
        }
        moved.join().unwrap()
    });
    assert_eq!(moving["result"], "activated", "{moving}");
    serving.etcd(&["put", "/after", "value"]);
    until("the moved replica has executed everything", PATIENCE, async || {
        let shown = serving.run(&["service", "show", "registry"]);
        let replicas = shown["replicas"].as_array().cloned().unwrap_or_default();
        let moved = replicas.iter().find(|replica| replica["replica"] == 2).cloned().unwrap_or_default();
        let caught_up = moved["stopped"].is_null() && moved["executed"] == moved["ordered"];
        if caught_up { Ok(()) } else { Err(shown) }
    })
    .await;
    serving.stop().await;
}

/// A build of the UID registry that differs from the built-in one in a text that nobody reads.
fn next_image(folder: &Path) -> PathBuf {
    let mut elf = quorate_guest_images::UID.elf.to_vec();
    let text = b"session.rs";
    let place = elf.windows(text.len()).position(|window| window == text).expect("where a panic came from");
    elf[place] = b'S';
    let path = folder.join("uid-next");
    std::fs::write(&path, elf).unwrap();
    path
}

/// From the entry that the order names on, VMs with the new image execute; they begin with the state that the old ones left.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_the_state_of_every_replica_to_a_vm_with_the_next_image() {
    let serving = Serving::with_spare_hosts(4, &[]).await;
    serving.run(&["uid", "add", "alice", "--uid", "1000", "--gecos", "Alice"]);
    let before = serving.run(&["service", "show", "uid"])["replicas"][0]["image"].clone();
    let image = next_image(serving.folder()).display().to_string();
    let words = ["service", "upgrade", "uid", "--image", &image];
    let hosts = ["spare-0", "spare-1", "spare-2", "spare-3"].map(|name| ["--host", name]);
    let ordered = serving.run(&[&words[..], hosts.as_flattened()].concat());
    assert_ne!(ordered["image"], before, "{ordered}");

    serving.run(&["uid", "add", "bob", "--uid", "1001"]);
    until("every replica has executed everything", PATIENCE, async || {
        let shown = serving.run(&["service", "show", "uid"]);
        let replicas = shown["replicas"].as_array().cloned().unwrap_or_default();
        let goes_on = |replica: &Value| {
            replica["executed"] == replica["ordered"] && replica["image"] == ordered["image"]
        };
        if replicas.len() == 4 && replicas.iter().all(goes_on) { Ok(()) } else { Err(shown) }
    })
    .await;
    for (name, uid) in [("alice", "1000\n"), ("bob", "1001\n")] {
        assert_eq!(text(&serving.lookup(&["id", "-u", name])), uid);
    }
    // The former VMs are not asked any more.
    let mut serving = serving;
    for replica in 0..4 {
        serving.kill(&format!("host-uid-{replica}")).await;
    }
    serving.run(&["uid", "add", "carol", "--uid", "1002"]);
    assert_eq!(text(&serving.lookup(&["id", "-u", "carol"])), "1002\n");
    assert_eq!(text(&serving.lookup(&["id", "-u", "alice"])), "1000\n");
}

/// A replica whose host is killed comes back from its newest certified slot and goes on at the right entry.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_host_is_killed_executes_what_it_missed() {
    let mut serving = Serving::up(&[]).await;
    for number in 0..5 {
        serving.run(&["registry", "put", &format!("/{number}"), "before"]);
    }
    serving.kill("host-registry-3").await;
    for number in 0..5 {
        serving.run(&["registry", "put", &format!("/{number}"), "meanwhile"]);
    }
    serving.cluster.restart("host-registry-3", None).await.expect("the host starts again");
    serving.cluster.restart("orchestrator-3", None).await.expect("the orchestrator starts again");
    until("the replica has executed everything", PATIENCE, async || {
        let shown = serving.run(&["service", "show", "registry"]);
        let replicas = shown["replicas"].as_array().cloned().unwrap_or_default();
        let back = replicas.iter().find(|replica| replica["replica"] == 3).cloned().unwrap_or_default();
        let caught_up = back["executed"].is_u64() && back["executed"] == back["ordered"];
        if caught_up { Ok(()) } else { Err(shown) }
    })
    .await;
    let listed = serving.run(&["registry", "list", "/"]);
    let values: Vec<_> = listed["names"].as_array().unwrap().iter().map(|name| &name["value"]).collect();
    assert_eq!(values, ["meanwhile"; 5]);
}

/// The proof of an entry in the service's public log holds for programs that know the policy only.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_services_log_is_proved_to_programs_that_know_the_policy_only() {
    let serving = Serving::up(&[]).await;
    serving.run(&["uid", "add", "alice", "--uid", "1000"]);
    let out = serving.folder().join("proofs");
    let proved = until("a quorum cosigns", PATIENCE, async || {
        let output = serving.quorate(&["service", "proof", "uid", "1", "--out", out.to_str().unwrap()]);
        if output.status.success() { Ok(()) } else { Err(output) }
    });
    proved.await;
    let file = |name: &str| out.join(name).display().to_string();
    let files = [file("policy.txt"), file("uid-1.statement"), file("uid-1.tlog-proof")];
    let [policy, statement, proof] = files.each_ref().map(String::as_str);
    let words = ["verify", "--policy", policy, "--statement", statement, proof];
    let verified = serving.run(&words);
    assert_eq!(verified["result"], "valid", "{verified}");
    let foreign = serving.folder().join("orchestrators.toml").display().to_string();
    let words = [&words[..], &["--replicas", &foreign]].concat();
    assert!(!serving.quorate(&words).status.success(), "another group's log");
    serving.stop().await;
}
