//! The frame: its tag is the channel, its body the epoch and the engine's bytes.

use bytes::Bytes;
use quorate_agreement_engine::network::Channel;
use quorate_transport::Wire;
use quorate_transport::encoding::DecodeError;

/// One message of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) channel: Channel,
    pub(crate) epoch: u64,
    pub(crate) bytes: Bytes,
}

fn channel_of(tag: u8) -> Option<Channel> {
    Channel::ALL.into_iter().find(|channel| tag_of(*channel) == tag)
}

/// Tags begin at 1.
fn tag_of(channel: Channel) -> u8 {
    channel as u8 + 1
}

impl Wire for Frame {
    fn tag(&self) -> u8 {
        tag_of(self.channel)
    }

    fn limit(tag: u8) -> Option<usize> {
        channel_of(tag).map(|channel| 8 + channel.limit())
    }

    fn encode_body(&self) -> Vec<u8> {
        [&self.epoch.to_le_bytes(), self.bytes.as_ref()].concat()
    }

    fn decode_body(tag: u8, body: &[u8]) -> Result<Self, DecodeError> {
        let malformed =
            |reason: &str| DecodeError::Malformed { name: "Frame", offset: 0, reason: reason.to_owned() };
        let channel = channel_of(tag).ok_or_else(|| malformed("unknown channel"))?;
        let (epoch, bytes) = body.split_first_chunk::<8>().ok_or_else(|| malformed("no epoch"))?;
        if bytes.is_empty() {
            return Err(malformed("empty"));
        }
        Ok(Self { channel, epoch: u64::from_le_bytes(*epoch), bytes: Bytes::copy_from_slice(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_transport::{TransportError, decode_frame, encode_frame};

    use super::*;

    #[test]
    fn test_oversize_frame_is_refused_by_its_header() {
        for channel in Channel::ALL {
            let over = (8 + channel.limit() + 1) as u32;
            let head = [&[tag_of(channel)][..], &over.to_le_bytes()].concat();
            let error = decode_frame::<Frame>(&head).unwrap_err();
            assert!(matches!(error, TransportError::MessageTooLarge { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn test_any_bytes_decode_to_what_encodes_to_them_or_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Ok(Some((frame, used))) = decode_frame::<Frame>(&bytes) {
                prop_assert_eq!(encode_frame(&frame).unwrap(), &bytes[..used]);
            }
        }

        #[test]
        fn test_every_prefix_of_a_frame_is_incomplete(
            (tag, epoch) in (0usize..6, any::<u64>()),
            bytes in prop::collection::vec(any::<u8>(), 1..64),
        ) {
            let frame = Frame { channel: Channel::ALL[tag], epoch, bytes: bytes.into() };
            let encoded = encode_frame(&frame).unwrap();
            for end in 0..encoded.len() {
                prop_assert!(matches!(decode_frame::<Frame>(&encoded[..end]), Ok(None)));
            }
            prop_assert_eq!(decode_frame::<Frame>(&encoded).unwrap(), Some((frame, encoded.len())));
        }
    }
}
