//! Members that do not follow the protocol, with a valid key.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use commonware_broadcast::{Broadcaster, buffered};
use commonware_codec::{Decode, Encode};
use commonware_consensus::Viewable;
use commonware_consensus::simplex::elector::{Elector, RoundRobin};
use commonware_consensus::simplex::types::{Certificate, Notarize, Proposal, Vote};
use commonware_consensus::types::{Epoch, Round};
use commonware_cryptography::certificate::{Scheme as _, Verifier as _};
use commonware_cryptography::sha256::Digest;
use commonware_cryptography::{Digestible, Sha256};
use commonware_p2p::{Receiver as _, Recipients, Sender as _};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, IoBuf, Supervisor};
use commonware_utils::NZUsize;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_agreement_engine::block::{Block, Header};
use quorate_agreement_engine::committee::{EngineKey, Scheme};

use crate::cluster::{Context, Receiver, Sender, World};

/// How a Byzantine member behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Says nothing.
    Silent,
    /// As leader shows different blocks to different members and votes for each.
    Equivocating,
    /// Sends every vote and certificate it hears to everybody again, and later once more.
    Replaying,
    /// Sends bytes that are no messages in every channel, without end.
    Flooding,
}

/// Acts until it is stopped.
pub(crate) fn task(
    context: Context,
    world: World,
    member: u16,
    behaviour: Behaviour,
) -> BoxFuture<'static, ()> {
    act(context, world, member, behaviour).boxed()
}

async fn act(context: Context, world: World, member: u16, behaviour: Behaviour) {
    match behaviour {
        Behaviour::Silent => futures::future::pending().await,
        Behaviour::Equivocating => equivocate(context, world, member).await,
        Behaviour::Replaying => {
            let channels = world.channels(member).await;
            let votes = replay(context.child("votes"), channels.votes);
            let certificates = replay(context.child("certificates"), channels.certificates);
            futures::join!(votes, certificates);
        }
        Behaviour::Flooding => flood(context, world, member).await,
    }
}

async fn replay(context: Context, (mut sender, mut receiver): (Sender, Receiver)) {
    let mut heard: Vec<IoBuf> = Vec::new();
    loop {
        let pause = context.sleep(Duration::from_millis(200));
        futures::pin_mut!(pause);
        futures::select_biased! {
            message = receiver.recv().fuse() => {
                let Ok((_, message)) = message else { return };
                let _ = sender.send(Recipients::All, message.clone(), true);
                if heard.len() < 4096 {
                    heard.push(message);
                }
            }
            () = pause.fuse() => {
                for message in heard.iter().rev().step_by(7).take(16) {
                    let _ = sender.send(Recipients::All, message.clone(), true);
                }
            }
        }
    }
}

async fn flood(context: Context, world: World, member: u16) {
    let channels = world.channels(member).await;
    let senders = [channels.votes, channels.certificates, channels.resolver]
        .into_iter()
        .chain([channels.gossip, channels.blocks, channels.backfill])
        .map(|(sender, _)| sender);
    let mut senders: Vec<_> = senders.collect();
    for round in 0u64.. {
        for (index, sender) in senders.iter_mut().enumerate() {
            let junk =
                Bytes::from(vec![(round as u8).wrapping_mul(31) ^ index as u8; 1 + round as usize % 700]);
            let _ = sender.send(Recipients::All, IoBuf::from(junk), true);
        }
        context.sleep(Duration::from_millis(2)).await;
    }
}

/// The view and payload that a certificate lets the next leader build on.
fn parent_of(
    certificate: Certificate<Scheme, Digest>,
) -> Option<(commonware_consensus::types::View, Digest)> {
    match certificate {
        Certificate::Notarization(certificate) => Some((certificate.view(), certificate.proposal.payload)),
        Certificate::Finalization(certificate) => Some((certificate.view(), certificate.proposal.payload)),
        Certificate::Nullification(_) => None,
    }
}

async fn equivocate(context: Context, world: World, member: u16) {
    let (me, seed) = (world.key(member), world.seeds[usize::from(member)]);
    let Some(scheme) = world.committee.signer(&seed) else { return };
    let channels = world.channels(member).await;
    let config = buffered::Config {
        public_key: me.clone(),
        mailbox_size: NZUsize!(64),
        deque_size: 16,
        priority: false,
        codec_config: (),
        peer_provider: world.oracle.manager(),
        strategy: Sequential,
    };
    let (engine, blocks) =
        buffered::Engine::<_, EngineKey, Block, _, _>::new(context.child("blocks"), config);
    let _engine = engine.start(channels.blocks);
    let elector = <RoundRobin<Sha256> as commonware_consensus::simplex::elector::Config<Scheme>>::build(
        RoundRobin::default(),
        world.committee.participants(),
    );
    let our_place = scheme.me().and_then(|me| me.signer());
    let others: Vec<_> = world.committee.keys().iter().filter(|key| **key != me).cloned().collect();
    let (mut votes, _) = channels.votes;
    let (_, mut certificates) = channels.certificates;
    let mut headers: HashMap<Digest, Header> = HashMap::new();
    headers.insert(Digest::from(world.genesis.digest()), world.genesis);
    let mut seen = HashSet::new();
    while let Ok((_, message)) = certificates.recv().await {
        let config = scheme.certificate_codec_config();
        let decoded = Certificate::<Scheme, Digest>::decode_cfg(message, &config);
        let Some((view, payload)) = decoded.ok().and_then(parent_of).filter(|(view, _)| seen.insert(*view))
        else {
            continue;
        };
        let round = Round::new(Epoch::zero(), view.next());
        if Some(Elector::<Scheme>::elect(&elector, round, ())) != our_place {
            continue;
        }
        let parent = match headers.get(&payload) {
            Some(header) => *header,
            None => match blocks.subscribe(payload).await {
                Ok(block) => *block.inner().header(),
                Err(_) => continue,
            },
        };
        let (some, rest) = others.split_at(others.len() / 2 + 1);
        for (variant, to) in [(1u64, some.to_vec()), (2, rest.to_vec())] {
            let operation = (u128::MAX - u128::from(2 * view.get() + variant)).to_be_bytes();
            let block = Block::build(&parent, vec![Bytes::copy_from_slice(&operation)]).digested();
            let digest = block.digest();
            let _ = blocks.broadcast(Recipients::Some(to.clone()), block);
            let Some(vote) = Notarize::<Scheme, Digest>::sign(&scheme, Proposal::new(round, view, digest))
            else {
                continue;
            };
            let _ = votes.send(Recipients::Some(to), Vote::<Scheme, Digest>::Notarize(vote).encode(), true);
        }
    }
}
