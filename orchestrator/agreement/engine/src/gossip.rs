//! Operations between members: every submitted operation goes to all, so that whoever leads next has it.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use commonware_p2p::{Blocker, Receiver, Recipients, Sender};
use commonware_runtime::{Clock, IoBuf};
use futures::FutureExt;
use std::time::Duration;

use crate::application::Shared;
use crate::committee::{Committee, EngineKey};
use crate::counters::Counters;
use crate::limits::{BLOCK_OPERATIONS, GOSSIP_BYTES, OPERATION_LIMIT};
use crate::mempool::Origin;

/// Batches of `length u32 little endian, operation`, each within the limit of a frame.
pub fn encode(operations: Vec<Bytes>) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let (mut batch, mut count) = (BytesMut::new(), 0);
    for operation in operations {
        if count == BLOCK_OPERATIONS || batch.len() + 4 + operation.len() > GOSSIP_BYTES {
            batches.push(std::mem::take(&mut batch).freeze());
            count = 0;
        }
        batch.put_u32_le(operation.len() as u32);
        batch.put_slice(&operation);
        count += 1;
    }
    if !batch.is_empty() {
        batches.push(batch.freeze());
    }
    batches
}

/// The operations of a batch; `None` unless it is exactly a list of them within all limits.
pub fn decode(mut batch: Bytes) -> Option<Vec<Bytes>> {
    if batch.len() > GOSSIP_BYTES || batch.is_empty() {
        return None;
    }
    let mut operations = Vec::new();
    while !batch.is_empty() {
        if batch.len() < 4 || operations.len() == BLOCK_OPERATIONS {
            return None;
        }
        let length = batch.get_u32_le() as usize;
        if length == 0 || length > OPERATION_LIMIT || length > batch.len() {
            return None;
        }
        operations.push(batch.split_to(length));
    }
    Some(operations)
}

/// Sends what is submitted here, repeats what stays pending, takes in what others send. Ends with the network.
pub(crate) async fn run<E, T, R, B>(
    clock: E,
    committee: Arc<Committee>,
    shared: Arc<Shared>,
    resend: Duration,
    (mut sender, mut receiver): (T, R),
    mut blocker: B,
) where
    E: Clock,
    T: Sender<PublicKey = EngineKey>,
    R: Receiver<PublicKey = EngineKey>,
    B: Blocker<PublicKey = EngineKey>,
{
    let mut due = clock.current() + resend;
    loop {
        let outgoing = shared.outgoing.notified();
        let tick = clock.sleep_until(due);
        futures::pin_mut!(outgoing, tick);
        let batches = futures::select_biased! {
            received = receiver.recv().fuse() => {
                let Ok((from, batch)) = received else { return };
                if !take_in(&committee, &shared, &from, batch) {
                    Counters::add(&shared.counters.gossip_refused);
                    blocker.block(from);
                }
                continue;
            }
            () = outgoing.fuse() => encode(shared.take_outbox()),
            () = tick.fuse() => {
                due = clock.current() + resend;
                encode(shared.aged(GOSSIP_BYTES))
            }
        };
        for batch in batches {
            // Whoever does not get it now gets it in a block.
            let _ = sender.send(Recipients::All, IoBuf::from(batch), false);
        }
    }
}

/// False if the batch proves that the member does not follow the protocol.
fn take_in(committee: &Committee, shared: &Shared, from: &EngineKey, batch: IoBuf) -> bool {
    let Some(member) = committee.index_of(from) else { return false };
    let Some(operations) = decode(batch.into()) else { return false };
    for operation in operations {
        if !(shared.rules().validate)(&operation) {
            return false;
        }
        let Some(id) = (shared.rules().operation_id)(&operation) else { return false };
        // The frame is larger than the operation; a copy keeps the mempool's accounting true.
        let operation = Bytes::copy_from_slice(&operation);
        if let Err(failure) = shared.insert(id, operation, Origin::Member(member)) {
            shared.fail(failure);
        }
    }
    true
}
