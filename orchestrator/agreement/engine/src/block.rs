//! Blocks: a header that is signed and hashed, and the operations under its root.
//!
//! The header commits to the log index of the block's first operation, and a block that repeats an operation is invalid.
//! So the position of an operation in a finalized block *is* its log index, and a header with an RFC 6962 path proves it.

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::{BufMut, Bytes};
use commonware_codec::{Buf, EncodeSize, Error, RangeCfg, Read, Write};
use commonware_consensus::types::Height;
use commonware_consensus::{Block as EngineBlock, BoundedBlock, Heightable};
use commonware_cryptography::sha256::Digest;
use commonware_cryptography::{Digested, Digestible};
use sha2::{Digest as _, Sha256};

use crate::limits::{BLOCK_BYTES, BLOCK_OPERATIONS, OPERATION_LIMIT};

const HEADER_DOMAIN: [u8; 16] = *b"quorate-block-v1";
const GENESIS_DOMAIN: [u8; 16] = *b"quorate-epoch-v1";

/// What members vote on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Header {
    /// Digest of the header before.
    pub parent: [u8; 32],
    /// Epoch of the group.
    pub epoch: u64,
    /// Blocks before this one in the epoch; 0 is the epoch's genesis.
    pub height: u64,
    /// Log index of the first operation.
    pub first_index: u64,
    /// Number of operations.
    pub count: u32,
    /// RFC 6962 root over the operations.
    pub root: [u8; 32],
}

impl Header {
    /// Bytes of the encoding.
    pub const LENGTH: usize = 32 + 8 + 8 + 8 + 4 + 32;

    /// All fields in order, numbers little endian.
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LENGTH);
        let written = self.serialize(&mut bytes);
        assert!(written.is_ok(), "writing into memory failed: {written:?}");
        bytes
    }

    /// SHA-256 of the domain and the encoding.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(HEADER_DOMAIN).chain_update(self.encoded()).finalize().into()
    }

    /// Log index of the first operation after this block.
    pub fn next_index(&self) -> u64 {
        self.first_index.saturating_add(u64::from(self.count))
    }

    /// The header of an epoch's genesis: commits to the configuration and to where the epoch before ended.
    pub fn genesis(epoch: u64, config: &[u8; 32], last: &[u8; 32], next_index: u64) -> Self {
        let parent = Sha256::new().chain_update(GENESIS_DOMAIN).chain_update(config).chain_update(last);
        let root = root::<&[u8]>(&[]);
        Self { parent: parent.finalize().into(), epoch, height: 0, first_index: next_index, count: 0, root }
    }
}

/// RFC 6962 root of operations: the tree that `quorate_attest::merkle` proves inclusion in. It stands here again because
/// this crate depends on none of ours: it takes minutes to compile.
fn root<T: AsRef<[u8]>>(operations: &[T]) -> [u8; 32] {
    match operations {
        [] => Sha256::digest([]).into(),
        [one] => Sha256::new().chain_update([0]).chain_update(one).finalize().into(),
        _ => {
            let (left, right) = operations.split_at(operations.len().next_power_of_two() / 2);
            Sha256::new()
                .chain_update([1])
                .chain_update(root(left))
                .chain_update(root(right))
                .finalize()
                .into()
        }
    }
}

/// A header with its operations. The two agree: constructors and decoder see to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    header: Header,
    operations: Vec<Bytes>,
}

impl Block {
    /// The block of `operations` after `parent`.
    pub fn build(parent: &Header, operations: Vec<Bytes>) -> Self {
        let header = Header {
            parent: parent.digest(),
            epoch: parent.epoch,
            height: parent.height.saturating_add(1),
            first_index: parent.next_index(),
            count: operations.len() as u32,
            root: root(&operations),
        };
        Self { header, operations }
    }

    /// The first block of an epoch, which nobody votes on.
    pub fn genesis(header: Header) -> Self {
        Self { header, operations: Vec::new() }
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The operations in log order.
    pub fn operations(&self) -> &[Bytes] {
        &self.operations
    }

    /// Hands the block to the engine.
    pub fn digested(self) -> Digested<Self> {
        let digest = self.digest();
        Digested::precomputed(self, digest)
    }
}

impl Write for Block {
    fn write(&self, writer: &mut impl BufMut) {
        writer.put_slice(&self.header.encoded());
        self.operations.write(writer);
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        Header::LENGTH + self.operations.encode_size()
    }
}

impl Read for Block {
    type Cfg = ();

    fn read_cfg(reader: &mut impl Buf, (): &()) -> Result<Self, Error> {
        if reader.remaining() < Header::LENGTH {
            return Err(Error::EndOfBuffer);
        }
        let mut bytes = [0; Header::LENGTH];
        reader.copy_to_slice(&mut bytes);
        let header = Header::try_from_slice(&bytes).map_err(|_| Error::Invalid("Block", "header"))?;
        let bounds = (RangeCfg::new(0..=BLOCK_OPERATIONS), RangeCfg::new(1..=OPERATION_LIMIT));
        let operations = Vec::<Bytes>::read_cfg(reader, &bounds)?;
        if operations.iter().map(Bytes::len).sum::<usize>() > BLOCK_BYTES {
            return Err(Error::Invalid("Block", "operations over the limit"));
        }
        if header.count as usize != operations.len() {
            return Err(Error::Invalid("Block", "count"));
        }
        if header.root != root(&operations) {
            return Err(Error::Invalid("Block", "root"));
        }
        Ok(Self { header, operations })
    }
}

impl Digestible for Block {
    type Digest = Digest;

    fn digest(&self) -> Digest {
        Digest::from(self.header.digest())
    }
}

impl Heightable for Block {
    fn height(&self) -> Height {
        Height::new(self.header.height)
    }
}

impl EngineBlock for Block {
    fn parent(&self) -> Digest {
        Digest::from(self.header.parent)
    }
}

impl BoundedBlock for Block {
    fn max_encode_size((): &()) -> usize {
        MAX_BLOCK
    }
}

/// Most bytes of an encoded block: header, counts of at most five bytes, operations.
pub const MAX_BLOCK: usize = Header::LENGTH + 5 * (1 + BLOCK_OPERATIONS) + BLOCK_BYTES;
