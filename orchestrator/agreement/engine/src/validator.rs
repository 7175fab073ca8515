//! One validator of one epoch: broadcast of blocks, archive with backfill, consensus. Generic over runtime and network.

use std::sync::Arc;
use std::time::Duration;

use commonware_broadcast::buffered;
use commonware_consensus::Reporters;
use commonware_consensus::marshal::core::{Actor, Mailbox};
use commonware_consensus::marshal::resolver::p2p as backfill;
use commonware_consensus::marshal::standard::{Inline, Standard};
use commonware_consensus::marshal::{Config as MarshalConfig, Start};
use commonware_consensus::simplex::config::{ForwardPolicy, SkipBudget, SkipPolicy};
use commonware_consensus::simplex::elector::RoundRobin;
use commonware_consensus::simplex::{self, Floor};
use commonware_consensus::types::{Epoch, FixedEpocher, ViewDelta};
use commonware_cryptography::certificate::{ConstantProvider, Verifier};
use commonware_cryptography::{Digestible, Sha256};
use commonware_p2p::{Blocker, Provider, Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::buffer::paged::CacheRef;
use commonware_runtime::{Clock, Handle, Metrics, Network, Spawner, Storage};
use commonware_storage::archive::immutable;
use commonware_utils::{NZDuration, NZU16, NZU64, NZUsize};
use rand_core::CryptoRng;

use crate::application::{Observer, Shared, Sink, Validation};
use crate::block::{Block, Header};
use crate::committee::{Committee, EngineKey, Scheme};
use crate::gossip;
use crate::limits::Timing;

/// Asks the archive for finalized blocks and certificates.
pub type Archive = Mailbox<Scheme, Standard<Block>>;

/// A sender and a receiver for each channel.
pub struct Channels<T, R> {
    /// Votes.
    pub votes: (T, R),
    /// Certificates.
    pub certificates: (T, R),
    /// Requests for certificates.
    pub resolver: (T, R),
    /// Operations.
    pub gossip: (T, R),
    /// Proposed blocks.
    pub blocks: (T, R),
    /// Requests for finalized blocks.
    pub backfill: (T, R),
}

/// What a validator is.
pub struct Setup {
    /// Our key.
    pub me: EngineKey,
    /// The members.
    pub committee: Arc<Committee>,
    /// Signs, or only verifies if this node is no member or the epoch is over.
    pub scheme: Scheme,
    /// Header of block 0.
    pub genesis: Header,
    /// How long things wait.
    pub timing: Timing,
    /// The validator's state.
    pub shared: Arc<Shared>,
    /// Takes finalized blocks.
    pub sink: Arc<dyn Sink>,
    /// Names the validator's files.
    pub prefix: String,
    /// Whether it votes, or only keeps and serves the blocks of an epoch that is over.
    pub votes: bool,
}

/// A running validator.
pub struct Validator {
    /// Finalized blocks.
    pub archive: Archive,
    /// Height up to which the archive need not deliver again.
    pub delivered: u64,
    /// The tasks; aborting them stops the validator.
    pub tasks: Vec<Handle<()>>,
}

/// The archives' files could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("archive {name}: {reason}")]
pub struct ArchiveFailed {
    name: &'static str,
    reason: String,
}

fn files<C>(prefix: &str, name: &str, cache: CacheRef, codec_config: C) -> immutable::Config<C> {
    immutable::Config {
        metadata_partition: format!("{prefix}-{name}-meta"),
        freezer_table_partition: format!("{prefix}-{name}-table"),
        freezer_table_initial_size: 4096,
        freezer_table_resize_frequency: 4,
        freezer_table_resize_chunk_size: 1 << 12,
        freezer_key_partition: format!("{prefix}-{name}-key"),
        freezer_key_page_cache: cache,
        freezer_value_partition: format!("{prefix}-{name}-value"),
        freezer_value_target_size: 1 << 30,
        freezer_value_compression: None,
        ordinal_partition: format!("{prefix}-{name}-ordinal"),
        items_per_section: NZU64!(4096),
        codec_config,
        replay_buffer: NZUsize!(1 << 20),
        freezer_key_write_buffer: NZUsize!(1 << 18),
        freezer_value_write_buffer: NZUsize!(1 << 20),
        ordinal_write_buffer: NZUsize!(1 << 18),
    }
}

/// Starts a validator.
///
/// # Errors
/// If the archives' files cannot be opened.
pub async fn start<E, P, B, T, R>(
    context: E,
    setup: Setup,
    peers: P,
    blocker: B,
    channels: Channels<T, R>,
) -> Result<Validator, ArchiveFailed>
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics + Network,
    P: Provider<PublicKey = EngineKey>,
    B: Blocker<PublicKey = EngineKey>,
    T: Sender<PublicKey = EngineKey>,
    R: Receiver<PublicKey = EngineKey>,
{
    let Setup { me, committee, scheme, genesis, timing, shared, sink, prefix, votes } = setup;
    let cache = CacheRef::new(NZU16!(4096), NZUsize!(2048));
    let (broadcast, buffer) = buffered::Engine::new(
        context.child("broadcast"),
        buffered::Config {
            public_key: me.clone(),
            mailbox_size: NZUsize!(256),
            deque_size: 8,
            priority: true,
            codec_config: (),
            peer_provider: peers.clone(),
            strategy: Sequential,
        },
    );
    let resolver = backfill::init(
        context.child("backfill"),
        backfill::Config {
            public_key: me,
            peer_provider: peers,
            blocker: blocker.clone(),
            mailbox_size: NZUsize!(256),
            fetch_timeout: NZDuration!(Duration::from_secs(2)),
            fetch_retry_delay: Duration::from_millis(100),
            priority_requests: false,
            priority_responses: false,
        },
        channels.backfill,
    );
    let failed = |name| {
        move |error: commonware_storage::archive::Error| ArchiveFailed { name, reason: error.to_string() }
    };
    let certificates = files(&prefix, "fin", cache.clone(), Scheme::certificate_codec_config_unbounded());
    let certificates = immutable::Archive::init(context.child("certificates"), certificates)
        .await
        .map_err(failed("certificates"))?;
    let blocks = immutable::Archive::init(context.child("blocks"), files(&prefix, "blk", cache.clone(), ()))
        .await
        .map_err(failed("blocks"))?;
    // Each of our epochs is an engine of its own that begins at height 0 and ends where an operation says so. To the engine
    // it is one endless epoch 0; the namespace of the votes and the genesis keep our epochs apart.
    let epocher = FixedEpocher::new(NZU64!(u64::MAX / 2));
    let genesis = Block::genesis(genesis).digested();
    let (actor, archive, floor) = Actor::<_, Standard<Block>, _, _, _, _, _>::init(
        context.child("archive"),
        certificates,
        blocks,
        MarshalConfig {
            provider: ConstantProvider::<Scheme, Epoch>::new(scheme.clone()),
            epocher: epocher.clone(),
            start: Start::Genesis(genesis.clone()),
            partition_prefix: format!("{prefix}-archive"),
            mailbox_size: NZUsize!(1024),
            view_retention: ViewDelta::new(64),
            prunable_items_per_section: NZU64!(1024),
            page_cache: cache.clone(),
            replay_buffer: NZUsize!(1 << 20),
            key_write_buffer: NZUsize!(1 << 18),
            value_write_buffer: NZUsize!(1 << 20),
            block_codec_config: (),
            max_repair: NZUsize!(32),
            max_pending_acks: NZUsize!(16),
            strategy: Sequential,
        },
    )
    .await;
    let delivered = floor.processed().map_or(0, |processed| processed.height().get());
    let application = Validation { shared: Arc::clone(&shared), sink };
    let mut tasks =
        vec![broadcast.start(channels.blocks), actor.start(application.clone(), buffer, resolver)];
    if votes {
        let relay = gossip::run(
            context.child("clock"),
            committee,
            Arc::clone(&shared),
            timing.resend,
            channels.gossip,
            blocker.clone(),
        );
        tasks.push(context.child("gossip").spawn(move |_| relay));
        let automaton = Inline::new(context.child("application"), application, archive.clone(), epocher);
        let engine = simplex::Engine::new(
            context.child("simplex"),
            simplex::Config {
                scheme,
                elector: RoundRobin::<Sha256>::default(),
                blocker,
                automaton: automaton.clone(),
                relay: automaton,
                reporter: Reporters::from((archive.clone(), Observer(shared))),
                track_historical_votes: false,
                strategy: Sequential,
                partition: format!("{prefix}-simplex"),
                mailbox_size: NZUsize!(1024),
                epoch: Epoch::zero(),
                floor: Floor::Genesis(genesis.digest()),
                replay_buffer: NZUsize!(1 << 20),
                write_buffer: NZUsize!(1 << 20),
                page_cache: cache,
                leader_timeout: timing.leader(),
                certification_timeout: timing.certification(),
                timeout_retry: timing.patience * 2,
                view_retention: ViewDelta::new(64),
                skip: SkipPolicy::Enabled { timeout: timing.absence(), budget: SkipBudget::Participants },
                fetch_timeout: NZDuration!(Duration::from_secs(1)),
                fetch_retry_delay: Duration::from_millis(100),
                forward: ForwardPolicy::Disabled,
            },
        );
        tasks.push(engine.start(channels.votes, channels.certificates, channels.resolver));
    }
    Ok(Validator { archive, delivered, tasks })
}
