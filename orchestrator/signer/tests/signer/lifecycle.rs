//! Starts, checks and ends as an operator sees them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use crate::setup::{Setup, ask};

#[test]
fn check_config_answers_0_or_78_and_names_every_problem() {
    let setup = Setup::new();
    let output = setup.command().arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "configuration is valid: signer demo/replica-0 in epoch 3\n");
    setup.edit("\"vote.key\"", "\"none.key\"");
    setup.edit("\"demo\"", "\"De mo\"");
    for arguments in [&["--check-config"][..], &[]] {
        let (code, text) = setup.output(arguments);
        assert_eq!(code, Some(78));
        assert!(text.contains("key_file: ") && text.contains("group: name \"De mo\""), "{text}");
    }
}

#[test]
fn a_key_that_others_may_read_is_refused_with_77() {
    let setup = Setup::new();
    std::fs::set_permissions(setup.path("cosigner.key"), Permissions::from_mode(0o640)).unwrap();
    let (code, text) = setup.output(&["run"]);
    assert!(code == Some(77) && text.contains("chmod 600"), "{text}");
    assert_eq!(setup.output(&["--check-config"]).0, Some(78));
}

#[test]
fn a_socket_in_a_folder_that_others_may_enter_is_refused_with_77() {
    let setup = Setup::new();
    std::fs::create_dir(setup.path("run")).unwrap();
    std::fs::set_permissions(setup.path("run"), Permissions::from_mode(0o755)).unwrap();
    let (code, text) = setup.output(&[]);
    assert!(code == Some(77) && text.contains("mode 0700"), "{text}");
}

#[test]
fn wrong_use_is_2_help_is_0_and_a_start_without_a_file_says_what_to_do() {
    let setup = Setup::new();
    assert_eq!(setup.output(&["sign"]).0, Some(2));
    assert_eq!(setup.output(&["--help"]).0, Some(0));
    let output = std::process::Command::new(crate::setup::PROGRAM).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pass --config FILE"));
}

#[tokio::test]
async fn a_signer_ends_in_order_when_asked_and_takes_its_socket_with_it() {
    let mut setup = Setup::new();
    setup.start();
    let client = setup.client();
    assert_eq!(ask(&client, 0, 1).await, "signed");
    assert_eq!(setup.terminate(), Some(0));
    assert!(!setup.path("run/socket").exists());
    assert_eq!(client.public().await.unwrap_err().kind(), "SocketError");
    setup.start();
    assert_eq!(client.public().await.unwrap().floors[0].newest, 0);
}

#[test]
fn the_service_manager_is_told_when_the_signer_is_ready() {
    let mut setup = Setup::new();
    let manager = UnixDatagram::bind(setup.path("notify")).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut command = setup.command();
    command.env("NOTIFY_SOCKET", setup.path("notify"));
    setup.start_as(command);
    let mut text = [0; 64];
    let length = manager.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"READY=1");
}

#[tokio::test]
async fn a_configuration_of_an_earlier_epoch_is_refused() {
    let mut setup = Setup::new();
    setup.start();
    assert_eq!(ask(&setup.client(), 0, 1).await, "signed");
    setup.kill();
    setup.edit("epoch = 3", "epoch = 2");
    let (code, text) = setup.output(&[]);
    assert!(code == Some(78) && text.contains("EpochRetired"), "{text}");
    setup.edit("epoch = 2", "epoch = 4");
    setup.start();
    assert_eq!(ask(&setup.client(), 1, 1).await, "WrongEpoch");
}
