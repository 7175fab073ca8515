//! Epochs of a group: from a genesis that offline root keys signed, link by link, to the current members.
//!
//! ```text
//! RootSet ── t of m ──▶ SignedGenesis (epoch 0) ── EpochLink ──▶ epoch 1 ── EpochLink ──▶ epoch 2 …
//!                                          q(0) old and q(1) new members sign each
//! ```
//!
//! A link is signed by a quorum of the old members, so that nobody else can name successors, and by a quorum of the new
//! ones, so that a group cannot be handed to keys that nobody holds. A certificate is checked with the members of its own
//! epoch ([`GroupChain::past`]); one that is offered as fresh must be of the current epoch ([`GroupChain::fresh`]).
//!
//! The keys of a chain never change their role: what was signed with a key in one role keeps its meaning.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Deref;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{SIGNATURES_LIMIT, Votes, verify_signatures};
use crate::encoding::{Bounded, bounded_list, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::group::GroupConfig;
use crate::id::{ConfigDigest, Epoch, GroupId, VmId};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::statement::{Kind, Statement};

/// Most root keys.
pub const ROOTS_LIMIT: usize = 64;

/// Most links of a chain.
pub const LINKS_LIMIT: usize = 1024;

/// Most bytes of a chain.
pub const CHAIN_LIMIT: usize = 64 << 20;

/// Instance of statements about a group itself.
pub const GROUP_INSTANCE: VmId = VmId::ZERO;

/// Offline keys of which `threshold` vouch for a genesis. Whoever checks one knows them beforehand.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RootSet {
    /// Signatures needed.
    pub threshold: u16,
    /// The keys.
    #[borsh(deserialize_with = "bounded_list::<ROOTS_LIMIT, _, _>")]
    pub keys: Vec<PublicKey>,
}

impl Bounded for RootSet {
    const LIMIT: usize = 2 + 4 + ROOTS_LIMIT * 32;
}

impl RootSet {
    /// Checks that the keys differ and that the threshold is between one and their number.
    pub fn validate(&self) -> Result<(), VerifyError> {
        let (got, limit) = (self.keys.len(), ROOTS_LIMIT);
        if got > limit {
            return Err(VerifyError::MessageTooLarge { what: "root keys", limit, got });
        }
        for (index, key) in self.keys.iter().enumerate() {
            if self.keys[..index].contains(key) {
                return Err(VerifyError::DuplicateSigner { verifier: index as u16 });
            }
        }
        if self.threshold == 0 || usize::from(self.threshold) > got {
            let reason = alloc::format!("{} of {got} root keys is no threshold", self.threshold);
            return Err(VerifyError::BadConfig { reason });
        }
        Ok(())
    }

    fn index_of(&self, key: &PublicKey) -> Result<u16, VerifyError> {
        let found = self.keys.iter().position(|known| known == key);
        found.map(|index| index as u16).ok_or(VerifyError::SignerNotMember { key: *key })
    }
}

/// What root keys sign: the first configuration of a group.
pub fn genesis_statement(config: &GroupConfig) -> Statement {
    Statement {
        kind: Kind::GENESIS,
        group: config.id(),
        epoch: config.epoch,
        instance: GROUP_INSTANCE,
        seq: config.epoch.get(),
        body: to_bytes(&config.digest()),
    }
}

/// The first configuration of a group with signatures of root keys.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedGenesis {
    /// Configuration of epoch 0.
    pub config: GroupConfig,
    /// Root key and signature over [`genesis_statement`], strictly ascending by key.
    #[borsh(deserialize_with = "bounded_list::<ROOTS_LIMIT, _, _>")]
    pub signatures: Vec<(PublicKey, Signature)>,
}

impl Bounded for SignedGenesis {
    const LIMIT: usize = GroupConfig::LIMIT + 4 + ROOTS_LIMIT * 96;
}

impl SignedGenesis {
    /// A genesis signed by these keys.
    pub fn sign(config: GroupConfig, roots: &[SecretKey]) -> Self {
        let statement = genesis_statement(&config);
        let mut signatures: Vec<_> = roots.iter().map(|key| (key.public(), statement.sign(key))).collect();
        signatures.sort_unstable_by_key(|(key, _)| *key);
        Self { config, signatures }
    }

    /// Checks the configuration, that it is of epoch 0, that no root key has a role in it, every signature and the count.
    pub fn verify(&self, roots: &RootSet) -> Result<(), VerifyError> {
        roots.validate()?;
        self.config.validate()?;
        if self.config.epoch != Epoch::ZERO {
            return Err(VerifyError::WrongEpoch { want: Epoch::ZERO, got: self.config.epoch });
        }
        if let Some((_, root)) = self.config.roles().find(|(_, key)| roots.keys.contains(key)) {
            return Err(VerifyError::KeyRoleMismatch { role: "root", got: root });
        }
        let message = genesis_statement(&self.config).encode();
        let mut last: Option<PublicKey> = None;
        for (key, signature) in &self.signatures {
            let verifier = roots.index_of(key)?;
            match last {
                Some(last) if last == *key => return Err(VerifyError::DuplicateSigner { verifier }),
                Some(last) if last > *key => return Err(VerifyError::SignerOutOfOrder { verifier }),
                _ => last = Some(*key),
            }
            key.verify(&message, signature)
                .map_err(|error| VerifyError::signature(Signer::Key(*key), error))?;
        }
        let (got, need) = (self.signatures.len() as u64, u64::from(roots.threshold));
        if got < need { Err(VerifyError::QuorumNotReached { need, got }) } else { Ok(()) }
    }
}

/// The step from one epoch's configuration to the next.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EpochLink {
    /// Configuration of the new epoch.
    pub config: GroupConfig,
    /// Configuration that it follows.
    pub previous: ConfigDigest,
    /// Index in the old members and signature, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub old: Vec<(u16, Signature)>,
    /// Index in the new members and signature, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub new: Vec<(u16, Signature)>,
}

impl Bounded for EpochLink {
    const LIMIT: usize = GroupConfig::LIMIT + 32 + 2 * (4 + SIGNATURES_LIMIT * 66);
}

impl EpochLink {
    /// What members of either epoch sign for `config` to follow `previous`.
    pub fn statement(config: &GroupConfig, previous: ConfigDigest) -> Statement {
        Statement {
            kind: Kind::EPOCH_LINK,
            group: config.id(),
            epoch: config.epoch,
            instance: GROUP_INSTANCE,
            seq: config.epoch.get(),
            body: to_bytes(&(config.digest(), previous)),
        }
    }

    /// Checks that this leads on from `previous`, with a quorum of the old members and one of the new.
    pub fn verify(&self, previous: &GroupConfig) -> Result<(), VerifyError> {
        check_successor(previous, &self.config)?;
        if self.previous != previous.digest() {
            let reason = "the link follows another configuration";
            return Err(VerifyError::EpochUnlinked {
                current: previous.epoch,
                got: self.config.epoch,
                reason,
            });
        }
        let message = Self::statement(&self.config, self.previous).encode();
        verify_signatures(previous, &message, &self.old)?;
        verify_signatures(&self.config, &message, &self.new)
    }
}

/// Checks what two consecutive configurations must have in common.
fn check_successor(previous: &GroupConfig, config: &GroupConfig) -> Result<(), VerifyError> {
    config.validate()?;
    let (want, got) = (previous.id(), config.id());
    if want != got {
        return Err(VerifyError::WrongCluster { want, got });
    }
    if previous.epoch.next() != Some(config.epoch) {
        let reason = "epochs follow each other without gaps";
        return Err(VerifyError::EpochUnlinked { current: previous.epoch, got: config.epoch, reason });
    }
    if previous.name != config.name {
        // The name is the origin of the public log and part of every cosigner's name.
        let reason = alloc::format!("group {} cannot become {}", previous.name, config.name);
        return Err(VerifyError::BadConfig { reason });
    }
    check_roles(&roles_of(previous), config)
}

type Roles = BTreeMap<PublicKey, &'static str>;

fn roles_of(config: &GroupConfig) -> Roles {
    config.roles().map(|(role, key)| (key, role)).collect()
}

/// Checks that no key of `config` had another role before.
fn check_roles(before: &Roles, config: &GroupConfig) -> Result<(), VerifyError> {
    let changed = |(role, key): &(&'static str, PublicKey)| before.get(key).is_some_and(|old| old != role);
    match config.roles().find(changed) {
        Some((role, got)) => Err(VerifyError::KeyRoleMismatch { role, got }),
        None => Ok(()),
    }
}

/// Collects signatures for one step until both epochs have a quorum.
#[derive(Debug, Clone)]
pub struct EpochLinkTally {
    config: GroupConfig,
    previous: ConfigDigest,
    old_keys: Vec<PublicKey>,
    message: Vec<u8>,
    old: Votes,
    new: Votes,
}

impl EpochLinkTally {
    /// Starts counting for `config` to follow `previous`.
    pub fn new(previous: &GroupConfig, config: GroupConfig) -> Result<Self, VerifyError> {
        check_successor(previous, &config)?;
        let digest = previous.digest();
        Ok(Self {
            message: EpochLink::statement(&config, digest).encode(),
            old: Votes::new(previous)?,
            new: Votes::new(&config)?,
            old_keys: previous.vote_keys(),
            previous: digest,
            config,
        })
    }

    /// Adds the signature of the holder of `key` in each epoch whose members it is one of; answers whether both quorums
    /// are reached. A refused one changes nothing.
    pub fn add(&mut self, key: &PublicKey, signature: Signature) -> Result<bool, VerifyError> {
        let old = self.old_keys.iter().position(|known| known == key).map(|index| index as u16);
        let new = self.config.index_of(key).ok();
        if let Some(index) = old {
            self.old.add(index, &self.message, signature)?;
        }
        match new {
            Some(index) => self.new.add(index, &self.message, signature)?,
            None if old.is_none() => return Err(VerifyError::SignerNotMember { key: *key }),
            None => {}
        }
        Ok(self.old.check_quorum().is_ok() && self.new.check_quorum().is_ok())
    }

    /// Signatures so far and signatures needed, of the old members and of the new.
    pub fn progress(&self) -> ((u64, u64), (u64, u64)) {
        (self.old.progress(), self.new.progress())
    }

    /// The link; [`VerifyError::QuorumNotReached`] before there are enough signatures of either epoch.
    pub fn link(&self) -> Result<EpochLink, VerifyError> {
        self.old.check_quorum()?;
        self.new.check_quorum()?;
        Ok(EpochLink {
            config: self.config.clone(),
            previous: self.previous,
            old: self.old.iter().collect(),
            new: self.new.iter().collect(),
        })
    }
}

/// A group's configurations from the genesis to the current one, each linked to the one before.
///
/// Whatever is fresh is of the current epoch, so a chain dereferences to its current configuration. What lies in the past
/// names its epoch, and [`Self::past`] answers with the members of that epoch.
///
/// The encoding is that of the genesis and of the links; reading one checks every link again. Whether the genesis is the
/// right one is for the reader to know, by its id or by [`SignedGenesis::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChain {
    genesis: GroupConfig,
    links: Vec<EpochLink>,
    roles: Roles,
    bytes: usize,
}

impl GroupChain {
    /// A chain of one configuration, which the caller trusts.
    pub fn new(genesis: GroupConfig) -> Result<Self, VerifyError> {
        if genesis.epoch != Epoch::ZERO {
            return Err(VerifyError::WrongEpoch { want: Epoch::ZERO, got: genesis.epoch });
        }
        Self::from_checkpoint(genesis)
    }

    /// A chain that begins with any configuration that the caller trusts. What was signed in an earlier epoch cannot be
    /// checked with it. Only a chain from epoch 0 on has an encoding that is read back.
    pub fn from_checkpoint(genesis: GroupConfig) -> Result<Self, VerifyError> {
        genesis.validate()?;
        let roles = roles_of(&genesis);
        let bytes = to_bytes(&genesis).len() + 4;
        Ok(Self { genesis, links: Vec::new(), roles, bytes })
    }

    /// A chain of one configuration, which root keys vouch for.
    pub fn from_signed(genesis: SignedGenesis, roots: &RootSet) -> Result<Self, VerifyError> {
        genesis.verify(roots)?;
        Self::new(genesis.config)
    }

    /// Goes one epoch on. A refused link changes nothing.
    pub fn advance(&mut self, link: EpochLink) -> Result<(), VerifyError> {
        let bytes = self.bytes.saturating_add(to_bytes(&link).len());
        if self.links.len() >= LINKS_LIMIT {
            let got = self.links.len() + 1;
            return Err(VerifyError::MessageTooLarge { what: "chain of epochs", limit: LINKS_LIMIT, got });
        }
        if bytes > CHAIN_LIMIT {
            let (what, limit) = ("chain of epochs", CHAIN_LIMIT);
            return Err(VerifyError::MessageTooLarge { what, limit, got: bytes });
        }
        link.verify(self.current())?;
        check_roles(&self.roles, &link.config)?;
        self.roles.extend(roles_of(&link.config));
        self.links.push(link);
        self.bytes = bytes;
        Ok(())
    }

    /// Identity of the group.
    pub fn id(&self) -> GroupId {
        self.genesis.id()
    }

    /// Configuration that the chain begins with: that of epoch 0, or the checkpoint.
    pub fn genesis(&self) -> &GroupConfig {
        &self.genesis
    }

    /// The links, oldest first.
    pub fn links(&self) -> &[EpochLink] {
        &self.links
    }

    /// Configuration of the newest epoch.
    pub fn current(&self) -> &GroupConfig {
        self.links.last().map_or(&self.genesis, |link| &link.config)
    }

    /// Configuration of an epoch, for checking what was signed in it.
    pub fn config(&self, epoch: Epoch) -> Result<&GroupConfig, VerifyError> {
        let place = epoch.get().checked_sub(self.genesis.epoch.get()).and_then(|n| usize::try_from(n).ok());
        let found = match place {
            Some(0) => Some(&self.genesis),
            Some(place) => self.links.get(place - 1).map(|link| &link.config),
            None => None,
        };
        let (current, reason) = (self.current().epoch, "no known link leads to it");
        found.ok_or(VerifyError::EpochUnlinked { current, got: epoch, reason })
    }

    /// Checks that `epoch` is the current one, as something fresh must be.
    pub fn check_fresh(&self, epoch: Epoch) -> Result<(), VerifyError> {
        let current = self.current().epoch;
        if epoch < current {
            return Err(VerifyError::EpochRetired { epoch, current });
        }
        self.config(epoch).map(|_| ())
    }

    /// The members that may have signed something of `group` and `epoch` that something newer rests on.
    pub fn past(&self, group: GroupId, epoch: Epoch) -> Result<&GroupConfig, VerifyError> {
        self.check_group(group)?;
        self.config(epoch)
    }

    /// The members that may sign something new of `group` and `epoch`: [`VerifyError::EpochRetired`] for an epoch that has
    /// ended, [`VerifyError::EpochUnlinked`] for one that is not known.
    pub fn fresh(&self, group: GroupId, epoch: Epoch) -> Result<&GroupConfig, VerifyError> {
        self.check_group(group)?;
        self.check_fresh(epoch)?;
        Ok(self.current())
    }

    fn check_group(&self, got: GroupId) -> Result<(), VerifyError> {
        let want = self.id();
        if got == want { Ok(()) } else { Err(VerifyError::WrongCluster { want, got }) }
    }
}

impl Deref for GroupChain {
    type Target = GroupConfig;

    fn deref(&self) -> &GroupConfig {
        self.current()
    }
}

impl BorshSerialize for GroupChain {
    fn serialize<W: borsh::io::Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
        (&self.genesis, &self.links).serialize(writer)
    }
}

impl BorshDeserialize for GroupChain {
    fn deserialize_reader<R: borsh::io::Read>(reader: &mut R) -> borsh::io::Result<Self> {
        let refused = |_| crate::encoding::invalid("chain of epochs does not hold");
        let mut chain = Self::new(GroupConfig::deserialize_reader(reader)?).map_err(refused)?;
        let links = u32::deserialize_reader(reader)? as usize;
        if links > LINKS_LIMIT {
            return Err(crate::encoding::invalid("list is over the limit"));
        }
        for _ in 0..links {
            chain.advance(EpochLink::deserialize_reader(reader)?).map_err(refused)?;
        }
        Ok(chain)
    }
}

impl Bounded for GroupChain {
    const LIMIT: usize = CHAIN_LIMIT;
}
