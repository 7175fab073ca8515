//! Starts, checks and ends as an operator sees them.

use std::os::unix::net::UnixDatagram;

use crate::cluster::Cluster;
use crate::http::{get, request};

#[test]
fn check_config_answers_0_or_78_and_names_every_problem() {
    let cluster = Cluster::new(4);
    let output = cluster.command(1).arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "configuration is valid: orchestrator orchestrator-1 of group orchestrators\n");
    let path = cluster.config(1);
    let broken = std::fs::read_to_string(&path)
        .unwrap()
        .replace("1.vote", "9.vote")
        .replace("127.0.0.1:0", "0.0.0.0:0");
    std::fs::write(&path, broken).unwrap();
    let output = cluster.command(1).arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("key_file: ") && text.contains("api: 0.0.0.0:0 is not a loopback address"),
        "{text}"
    );
    assert_eq!(cluster.command(1).output().unwrap().status.code(), Some(78), "a start says the same");
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let cluster = Cluster::new(1);
    let check = |environment: &str, flag: Option<&str>| {
        let mut command = cluster.command(0);
        command.arg("--check-config").env("QUORATE_ORCHESTRATOR_LISTEN", environment);
        if let Some(flag) = flag {
            command.args(["--listen", flag]);
        }
        command.status().unwrap().code()
    };
    assert_eq!(check("nowhere", None), Some(78));
    assert_eq!(check("nowhere", Some("127.0.0.1:0")), Some(0));
}

#[test]
fn a_node_without_its_sign_state_or_with_another_process_on_it_does_not_start() {
    let mut cluster = Cluster::new(1);
    assert_eq!(cluster.command(0).arg("init").status().unwrap().code(), Some(78), "never replaced");
    cluster.start(0);
    assert_eq!(cluster.command(0).output().unwrap().status.code(), Some(75), "DataDirLocked");
    cluster.kill(0);
    std::fs::remove_file(cluster.folder.path().join("data-0/sign-log")).unwrap();
    let output = cluster.command(0).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SignStateMissing"));
}

#[test]
fn a_node_ends_in_order_when_asked_and_tells_the_service_manager_when_ready() {
    let mut cluster = Cluster::new(1);
    let socket = cluster.folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut child =
        cluster.command(0).env("NOTIFY_SOCKET", &socket).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut text = [0; 64];
    let length = manager.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"READY=1");
    child.kill().unwrap();
    child.wait().unwrap();
    cluster.start(0);
    assert_eq!(cluster.terminate(0), Some(0));
}

#[test]
fn the_api_listens_on_a_unix_socket_of_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let mut cluster = Cluster::new(1);
    let path = cluster.config(0);
    let text =
        std::fs::read_to_string(&path).unwrap().replace("api = \"127.0.0.1:0\"", "api = \"unix:api.sock\"");
    std::fs::write(&path, text).unwrap();
    cluster.start(0);
    let socket = cluster.folder.path().join("api.sock");
    assert_eq!(cluster.node(0).api, format!("unix:{}", socket.display()));
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(get(&cluster.node(0).api, "/v1/status").0, 200);
    // A socket that a kill left behind is replaced.
    cluster.kill(0);
    cluster.start(0);
    assert_eq!(request(&cluster.node(0).api, "GET /livez", "").0, 200);
    assert_eq!(cluster.terminate(0), Some(0));
    assert!(!socket.exists(), "an orderly end removes it");
    std::fs::write(&socket, "somebody's file").unwrap();
    assert_eq!(cluster.command(0).output().unwrap().status.code(), Some(78));
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "somebody's file");
}
