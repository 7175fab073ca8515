//! Messages between honest nodes.

use super::*;

#[tokio::test]
async fn test_both_sides_know_key_role_and_version_of_the_other() {
    let pair = pair(limits()).await;
    assert_eq!((pair.dialled.peer(), pair.dialled.role()), (&key(3).public(), Role::Verifier));
    assert_eq!((pair.accepted.peer(), pair.accepted.role()), (&key(1).public(), Role::Host));
    assert_eq!((pair.dialled.version(), pair.accepted.version()), (1, 1));
    assert_eq!(pair.host.counters().handshake.get("ok"), 1);
    assert_eq!(pair.verifier.counters().handshake.get("ok"), 1);
}

#[tokio::test]
async fn test_messages_of_every_size_arrive_whole_and_in_order() {
    let pair = pair(limits()).await;
    let sizes = [0, 1, 7, 1200, 65_536, BLOB_LIMIT - 4];
    let send = async {
        let mut exchange = pair.dialled.open().await.unwrap();
        for size in sizes {
            exchange.send(&Talk::from(Blob { bytes: vec![size as u8; size] })).await.unwrap();
        }
        exchange.finish().unwrap();
        let answer: Option<Talk> = exchange.recv().await.unwrap();
        assert_eq!(answer, Some(Ask { number: 6 }.into()));
        assert_eq!(exchange.recv::<Talk>().await.unwrap(), None);
    };
    let recv = async {
        let mut exchange = pair.accepted.accept().await.unwrap();
        let mut count = 0;
        while let Some(message) = exchange.recv::<Talk>().await.unwrap() {
            let size = sizes[count];
            assert_eq!(message, Talk::Blob(Blob { bytes: vec![size as u8; size] }));
            count += 1;
        }
        exchange.send(&Talk::from(Ask { number: count as u64 })).await.unwrap();
    };
    tokio::join!(send, recv);
}
