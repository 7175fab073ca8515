use std::os::unix::fs::symlink;

use quorate_attest::key::Signature;
use quorate_verifier::sign_log::{DataDir, SignLogError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::client::{ClientError, SignerClient};
use crate::protocol::{FRAME_BYTES_MAX, STATEMENTS_MAX, ToSigner};
use crate::signer::Signer;
use crate::tests::fixture::{Device, head, keys, rules, statement};
use crate::worker::Worker;

const PATIENCE: Duration = Duration::from_secs(60);

/// A signer that listens in a folder of its own.
struct Running {
    folder: tempfile::TempDir,
    device: Device,
    failed: oneshot::Receiver<SignLogError>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let (folder, device) = (tempfile::tempdir().unwrap(), Device::initialised());
        let (failed, task) = serve(&folder.path().join("run/socket"), &device).await;
        Self { folder, device, failed, task }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("run/socket")
    }

    fn client(&self) -> SignerClient {
        SignerClient::new(&self.path())
    }

    async fn stop(&mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }
}

async fn serve(
    path: &Path,
    device: &Device,
) -> (oneshot::Receiver<SignLogError>, tokio::task::JoinHandle<()>) {
    let listener = Listener::bind(path).await.unwrap();
    let Worker { jobs, failed } = Worker::start(device.signer(), ()).unwrap();
    (failed, tokio::spawn(async move { match listener.serve(jobs).await {} }))
}

fn kinds(answers: Vec<Result<Signature, Refused>>) -> Vec<String> {
    answers
        .into_iter()
        .map(|answer| answer.map_or_else(|refused| refused.kind, |_| "signed".to_owned()))
        .collect()
}

#[tokio::test]
async fn a_client_gets_signatures_a_cosignature_and_the_floors() {
    let running = Running::start().await;
    let client = running.client();
    let statements = vec![statement(0, 5, 1), statement(0, 5, 2), Vec::new()];
    assert_eq!(kinds(client.sign(statements).await.unwrap()), ["signed", "DoubleVote", "DecodeError"]);
    assert!(client.cosign(head(0, 0, 0, 3)).await.unwrap().starts_with("— demo/replica-0 "));
    let error = client.cosign(head(0, 0, 0, 2)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(_)) && error.kind() == "Stale", "{error}");
    let public = client.public().await.unwrap();
    assert_eq!((public.vote, public.cosigner), (keys().vote.public(), keys().cosigner.public()));
    assert_eq!((public.floors.len(), public.floors[0].newest), (1, 5));
    assert_eq!(public.heads, [head(0, 0, 0, 3).head]);
}

#[tokio::test]
async fn more_statements_than_a_frame_holds_go_in_several() {
    let running = Running::start().await;
    let count = STATEMENTS_MAX as u64 * 2 + 10;
    let statements: Vec<_> = (0..count).map(|number| statement(0, number, 1)).collect();
    let answers = running.client().sign(statements.clone()).await.unwrap();
    assert_eq!(answers.len(), statements.len());
    for (statement, answer) in statements.iter().zip(answers).step_by(509) {
        assert_eq!(keys().vote.public().verify(statement, &answer.unwrap()), Ok(()));
    }
    // By bytes: none of these is a statement, and each is answered.
    let answers = running.client().sign(vec![vec![0; 65_000]; 40]).await.unwrap();
    assert_eq!(kinds(answers), vec!["DecodeError"; 40]);
}

#[tokio::test]
async fn a_client_finds_the_signer_again_after_a_restart_and_its_promises_with_it() {
    let mut running = Running::start().await;
    let client = running.client();
    assert_eq!(kinds(client.sign(vec![statement(0, 5, 1)]).await.unwrap()), ["signed"]);
    running.stop().await;
    assert_eq!(client.sign(vec![statement(0, 5, 1)]).await.unwrap_err().kind(), "SocketError");
    let (_failed, _task) = serve(&running.path(), &running.device.after_power_cut()).await;
    let answers = client.sign(vec![statement(0, 5, 2), statement(0, 5, 1)]).await.unwrap();
    assert_eq!(kinds(answers), ["DoubleVote", "signed"]);
}

#[tokio::test]
async fn many_clients_that_ask_for_different_results_of_one_number_get_one() {
    let running = Running::start().await;
    let asked = (0..16u8).map(|result| {
        let client = running.client();
        tokio::spawn(async move { client.sign(vec![statement(0, 5, result)]).await.unwrap()[0].is_ok() })
    });
    let mut signed = 0;
    for task in asked.collect::<Vec<_>>() {
        signed += usize::from(task.await.unwrap());
    }
    assert_eq!(signed, 1);
}

#[tokio::test]
async fn garbage_and_oversize_frames_end_their_connection_and_no_other() {
    let running = Running::start().await;
    let cases = [
        (vec![3, 0, 0, 0, 9, 9, 9], "DecodeError"),
        (vec![0, 0, 0, 0], "DecodeError"),
        ((FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec(), "MessageTooLarge"),
        (u32::MAX.to_le_bytes().to_vec(), "MessageTooLarge"),
        ([&2u32.to_le_bytes()[..], &[2, 0]].concat(), "DecodeError"),
    ];
    let good = running.client();
    assert!(good.public().await.is_ok());
    for (bytes, kind) in cases {
        let mut stream = UnixStream::connect(running.path()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let answer = protocol::read::<FromSigner>(&mut stream, PATIENCE).await.unwrap();
        assert!(matches!(&answer, Some(FromSigner::Refused(refused)) if refused.kind == kind), "{answer:?}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection ends");
    }
    // One that goes away in the middle of a frame.
    let mut stream = UnixStream::connect(running.path()).await.unwrap();
    stream.write_all(&[200, 0, 0, 0, 1]).await.unwrap();
    drop(stream);
    assert!(good.public().await.is_ok());
}

#[tokio::test]
async fn a_process_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/socket");
    let mine = rustix::process::geteuid().as_raw();
    // The same as a peer of another user: the peer is this process, and another user is wanted.
    let listener = Listener::bind_for(&path, mine + 1).await.unwrap();
    let device = Device::initialised();
    let Worker { jobs, .. } = Worker::start(device.signer(), ()).unwrap();
    let task = tokio::spawn(async move { match listener.serve(jobs).await {} });
    let error = SignerClient::new(&path).sign(vec![statement(0, 5, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), "SocketError");
    task.abort();
    assert!(device.signer().public().floors.is_empty(), "nothing was signed");
}

#[tokio::test]
async fn a_storage_error_answers_nobody_and_is_told_to_the_process() {
    let running = Running::start().await;
    let client = running.client();
    running.device.disk().broken = true;
    assert_eq!(client.sign(vec![statement(0, 5, 1)]).await.unwrap_err().kind(), "SocketError");
    let error = running.failed.await.unwrap();
    assert_eq!((error.kind(), error.exit_code()), ("StorageSyncFailed", 74));
}

#[tokio::test]
async fn connections_over_the_limit_wait_until_one_ends() {
    let running = Running::start().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = UnixStream::connect(running.path()).await.unwrap();
        protocol::write(&mut stream, &ToSigner::Public).await.unwrap();
        assert!(protocol::read::<FromSigner>(&mut stream, PATIENCE).await.unwrap().is_some());
        held.push(stream);
    }
    let client = running.client();
    let mut waiting = tokio::spawn(async move { client.public().await.is_ok() });
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "no room yet");
    held.pop();
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn the_socket_and_a_new_folder_are_their_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/socket");
    let listener = Listener::bind(&path).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    drop(listener);
    assert!(!path.exists());
    for open in [0o701, 0o710, 0o770, 0o755] {
        std::fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(open)).unwrap();
        let error = Listener::bind(&path).await.unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), ("SocketError", 77), "{open:o}");
        assert!(error.to_string().contains("mode 0700"), "{error}");
    }
}

#[tokio::test]
async fn a_socket_in_use_and_files_of_others_are_not_removed_and_one_left_behind_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/socket");
    let listener = Listener::bind(&path).await.unwrap();
    let error = Listener::bind(&path).await.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), ("SocketError", 75));
    drop(listener);
    // As after a kill: the file is there and nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Listener::bind(&path).await.unwrap());
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(Listener::bind(&path).await.unwrap_err().exit_code(), 78);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let link = folder.path().join("run/link");
    symlink(&path, &link).unwrap();
    assert_eq!(Listener::bind(&link).await.unwrap_err().exit_code(), 78);
    assert!(link.is_symlink());
}

#[tokio::test]
async fn the_directory_stays_locked_as_long_as_the_thread_may_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    DataDir::init(&path, &keys().identity(&rules()).entry()).unwrap();
    let (directory, opened) = DataDir::open(&path).unwrap();
    let signer = Signer::new(opened, rules(), keys()).unwrap();
    let Worker { jobs, failed } = Worker::start(signer, directory).unwrap();
    assert_eq!(DataDir::open(&path).unwrap_err().kind(), "DataDirLocked");
    let (answer, answered) = oneshot::channel();
    jobs.send(Job { asked: ToSigner::Sign { statements: vec![statement(0, 5, 1)] }, answer }).await.unwrap();
    drop(jobs);
    // Nobody can ask any more, but what was asked is still worked on.
    assert!(matches!(answered.await, Ok(FromSigner::Signed { .. })));
    assert!(failed.await.is_err(), "the thread ended without an error");
    let (_directory, opened) = DataDir::open(&path).unwrap();
    assert_eq!(Signer::new(opened, rules(), keys()).unwrap().public().floors[0].newest, 5);
}
