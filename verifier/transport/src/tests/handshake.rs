//! Who gets a connection, and who does not.

use quorate_attest::encoding::to_bytes;
use quorate_attest::key::PublicKey;

use super::*;
use crate::hello::{Answer, Channel, Confirm, Dialler, EXPORTER_LABEL, Hello, HelloMessage, MESSAGES};
use crate::identity::Identity;
use crate::{CloseReason, Directory, TransportError, Versions, Wire, encode_frame};

fn kind(result: Result<Connection, TransportError>) -> &'static str {
    result.map_or_else(|error| error.kind(), |_| "connected")
}

/// The outcome at the dialler and the accepter's count of the same.
async fn outcome(dialler: &Endpoint, accepter: &Endpoint, expected: &PublicKey) -> &'static str {
    kind(dialler.connect(accepter.local_addr().unwrap(), expected).await)
}

async fn counted(endpoint: &Endpoint, result: &str, at_least: u64) {
    eventually(|| endpoint.counters().handshake.get(result) >= at_least).await;
}

#[tokio::test]
async fn test_key_unknown_to_the_accepter_is_refused() {
    let knows_all = Members::new().with(key(3).public(), Role::Verifier).with_any_client();
    let stranger = Endpoint::bind(LOCAL, &key(9), Arc::new(knows_all), limits()).unwrap();
    let verifier = node(3, limits());
    assert_eq!(outcome(&stranger, &verifier, verifier.public()).await, "PeerUnknown");
    counted(&verifier, "PeerUnknown", 1).await;
}

#[tokio::test]
async fn test_key_unknown_to_the_dialler_is_refused() {
    let open = members().with_any_client();
    let stranger = Endpoint::bind(LOCAL, &key(9), Arc::new(open), limits()).unwrap();
    let host = node(1, limits());
    assert_eq!(outcome(&host, &stranger, stranger.public()).await, "PeerUnknown");
    assert_eq!(stranger.counters().handshake.total(), 0, "not even a packet was sent");
}

#[tokio::test]
async fn test_known_node_that_is_not_the_expected_one_is_refused() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    assert_eq!(outcome(&host, &verifier, &key(4).public()).await, "PeerUnknown");
    counted(&verifier, "PeerUnknown", 1).await;
}

#[tokio::test]
async fn test_revoked_key_is_refused_both_ways() {
    struct Revoking(Members, PublicKey);
    impl Directory for Revoking {
        fn role(&self, key: &PublicKey) -> Option<Role> {
            self.0.role(key)
        }
        fn is_revoked(&self, key: &PublicKey) -> bool {
            *key == self.1
        }
    }
    let revoking = Arc::new(Revoking(members(), key(1).public()));
    let verifier = Endpoint::bind(LOCAL, &key(3), revoking, limits()).unwrap();
    let host = node(1, limits());
    assert_eq!(outcome(&host, &verifier, verifier.public()).await, "PeerRevoked");
    assert_eq!(outcome(&verifier, &host, host.public()).await, "PeerRevoked");
}

#[tokio::test]
async fn test_right_key_in_the_wrong_role_is_refused_both_ways() {
    let liar = Endpoint::bind_as(LOCAL, &key(1), Role::Verifier, Arc::new(members()), limits()).unwrap();
    let verifier = node(3, limits());
    assert_eq!(outcome(&liar, &verifier, verifier.public()).await, "KeyRoleMismatch");
    counted(&verifier, "KeyRoleMismatch", 1).await;
    assert_eq!(outcome(&verifier, &liar, liar.public()).await, "KeyRoleMismatch");
}

#[tokio::test]
async fn test_any_key_may_be_a_client_where_the_directory_says_so() {
    let open = Arc::new(members().with_any_client());
    let verifier = Endpoint::bind(LOCAL, &key(3), open, limits()).unwrap();
    let client = node(77, limits());
    let dial = client.connect(verifier.local_addr().unwrap(), verifier.public());
    let (dialled, accepted) = tokio::join!(dial, verifier.accept());
    assert_eq!(accepted.unwrap().role(), Role::Client);
    assert_eq!(dialled.unwrap().role(), Role::Verifier);
}

#[tokio::test]
async fn test_versions_without_a_common_one_are_refused_and_the_floor_holds() {
    let speaking = |lowest, highest| Limits { versions: Versions { lowest, highest }, ..limits() };
    let (old, new) = (node(1, speaking(1, 1)), node(3, speaking(2, 3)));
    assert_eq!(outcome(&old, &new, new.public()).await, "VersionUnsupported");
    counted(&new, "VersionUnsupported", 1).await;
    let (wide, verifier) = (node(2, speaking(1, 4)), node(4, speaking(2, 3)));
    let dial = wide.connect(verifier.local_addr().unwrap(), verifier.public());
    let (dialled, accepted) = tokio::join!(dial, verifier.accept());
    assert_eq!((dialled.unwrap().version(), accepted.unwrap().version()), (3, 3));
}

/// A host with a valid key that writes its own hello.
struct Forger {
    quic: quinn::Connection,
    streams: (quinn::SendStream, quinn::RecvStream),
    us: Identity,
}

impl Forger {
    async fn connect(host: &Endpoint, verifier: &Endpoint) -> Self {
        let quic = host.dial_tls(verifier.local_addr().unwrap(), *verifier.public()).await.unwrap();
        let streams = quic.open_bi().await.unwrap();
        Self { quic, streams, us: Identity::new(&key(1), Role::Host) }
    }

    fn channel(&self) -> Channel {
        let mut exporter = [0; 32];
        self.quic.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).unwrap();
        Channel { exporter, peer: key(3).public(), expected_role: Role::Verifier }
    }

    async fn send(&mut self, message: impl Into<HelloMessage>) {
        self.streams.0.write_all(&encode_frame(&message.into()).unwrap()).await.unwrap();
    }

    async fn answer(&mut self) -> Answer {
        let mut head = [0; 5];
        self.streams.1.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; usize::from(head[1])];
        self.streams.1.read_exact(&mut body).await.unwrap();
        match HelloMessage::decode_body(head[0], &body).unwrap() {
            HelloMessage::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(&self) -> CloseReason {
        match self.quic.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                CloseReason::from_code(close.error_code.into_inner())
            }
            other => panic!("{other}"),
        }
    }
}

/// A complete honest hello, as an attacker would record it.
async fn recorded(host: &Endpoint, verifier: &Endpoint, nonce: u8) -> (Channel, Hello, Answer, Confirm) {
    let mut forger = Forger::connect(host, verifier).await;
    let channel = forger.channel();
    let (dialler, hello) =
        Dialler::start(&forger.us, Versions::SPOKEN, channel.clone(), MESSAGES, [nonce; 16]);
    forger.send(hello.clone()).await;
    let answer = forger.answer().await;
    let (_, confirm) = dialler.answered(&forger.us, &answer).unwrap();
    forger.send(confirm.clone()).await;
    assert!(verifier.accept().await.is_some());
    (channel, hello, answer, confirm)
}

#[tokio::test]
async fn test_replayed_hello_is_refused() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    let (_, hello, _, _) = recorded(&host, &verifier, 7).await;
    let mut forger = Forger::connect(&host, &verifier).await;
    forger.send(hello).await;
    assert_eq!(forger.refusal().await, CloseReason::NonceReused);
}

#[tokio::test]
async fn test_signature_of_another_session_is_refused() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    let (_, mut hello, _, confirm) = recorded(&host, &verifier, 7).await;
    let mut forger = Forger::connect(&host, &verifier).await;
    hello.nonce = [8; 16];
    forger.send(hello).await;
    forger.answer().await;
    forger.send(confirm).await;
    assert_eq!(forger.refusal().await, CloseReason::SessionBindingMismatch);
}

#[tokio::test]
async fn test_exporter_of_another_session_is_refused() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    let (other_session, ..) = recorded(&host, &verifier, 7).await;
    let mut forger = Forger::connect(&host, &verifier).await;
    let own = forger.channel();
    let (dialler, hello) = Dialler::start(&forger.us, Versions::SPOKEN, own, MESSAGES, [8; 16]);
    forger.send(hello.clone()).await;
    let answer = forger.answer().await;
    assert!(dialler.answered(&forger.us, &answer).is_ok(), "the verifier itself is honest");
    let confirm = crate::hello::sign_for_test(&forger.us, &other_session, &hello, &answer);
    forger.send(confirm).await;
    assert_eq!(forger.refusal().await, CloseReason::SessionBindingMismatch);
}

#[tokio::test]
async fn test_hello_out_of_order_or_for_bulk_is_refused() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    let mut forger = Forger::connect(&host, &verifier).await;
    forger.send(Confirm { signature: forger.us.sign(&to_bytes(&1u8)) }).await;
    assert_eq!(forger.refusal().await, CloseReason::SessionBindingMismatch);
    let mut forger = Forger::connect(&host, &verifier).await;
    let channel = forger.channel();
    let (_, hello) = Dialler::start(&forger.us, Versions::SPOKEN, channel, [5; 32], [1; 16]);
    forger.send(hello).await;
    assert_eq!(forger.refusal().await, CloseReason::SessionBindingMismatch);
}

#[tokio::test]
async fn test_repeated_misbehaviour_blocks_the_key_in_the_tls_handshake() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    for _ in 0..4 {
        let mut forger = Forger::connect(&host, &verifier).await;
        forger.send(Confirm { signature: forger.us.sign(b"") }).await;
        assert_eq!(forger.refusal().await, CloseReason::SessionBindingMismatch);
    }
    assert_eq!(outcome(&host, &verifier, verifier.public()).await, "PeerBlocked");
    assert_eq!(verifier.counters().peer_blocked.get("SessionBindingMismatch"), 1);
    let other = node(2, limits());
    assert_eq!(outcome(&other, &verifier, verifier.public()).await, "connected");
}

#[tokio::test]
async fn test_dialler_that_never_says_hello_is_cut_at_the_deadline() {
    let short = Limits { handshake: Duration::from_millis(300), ..limits() };
    let (host, verifier) = (node(1, limits()), node(3, short));
    let silent = host.dial_tls(verifier.local_addr().unwrap(), *verifier.public()).await.unwrap();
    silent.closed().await;
    counted(&verifier, "HandshakeTimeout", 1).await;
    eventually(|| verifier.pending_handshakes() == 0).await;
}

#[tokio::test]
async fn test_second_connection_is_never_resumed_and_sends_no_early_data() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    let gate = crate::peers::Gate::new(Arc::new(members()), limits());
    let us = Identity::new(&key(1), Role::Host);
    let tls = crate::tls::client(&us, gate, *verifier.public(), crate::tls::ALPN_MESSAGES).unwrap();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    for _ in 0..3 {
        let connecting = host.dial_with(config.clone(), verifier.local_addr().unwrap()).unwrap();
        let connecting = connecting.into_0rtt().err().expect("early data was possible");
        let quic = connecting.await.unwrap();
        // A ticket would arrive before the answer to the hello.
        let mut streams = quic.open_bi().await.unwrap();
        streams.0.write_all(&[9, 0, 0, 0, 0]).await.unwrap();
        assert!(streams.1.read_to_end(100).await.is_err());
    }
}

#[tokio::test]
async fn test_absent_node_is_a_handshake_timeout() {
    let nobody = std::net::UdpSocket::bind(LOCAL).unwrap();
    let short = Limits { handshake: Duration::from_millis(300), ..limits() };
    let host = node(1, short);
    let result = host.connect(nobody.local_addr().unwrap(), &key(3).public()).await;
    assert_eq!(kind(result), "HandshakeTimeout");
}
