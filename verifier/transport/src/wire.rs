//! Frames: `tag u8, length u32 little endian, body`, and the messages in them.

use quorate_attest::encoding::DecodeError;

use crate::error::TransportError;

/// Bytes before each body.
pub const HEADER: usize = 5;

/// A set of messages that one stream may carry. Written by [`crate::wire_enum!`].
pub trait Wire: Sized + Send {
    /// The frame tag of this message.
    fn tag(&self) -> u8;

    /// Most bytes a body of this tag may have; `None` if no message has the tag. Asked before anything is allocated.
    fn limit(tag: u8) -> Option<usize>;

    /// The canonical body.
    fn encode_body(&self) -> Vec<u8>;

    /// The message of a body, which must be the canonical encoding and nothing else.
    fn decode_body(tag: u8, body: &[u8]) -> Result<Self, DecodeError>;
}

/// A decoded frame header whose length is within the limit of its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message's tag.
    pub tag: u8,
    /// Length of the body.
    pub length: usize,
}

impl Header {
    /// Reads a header and checks the length against `W`'s limit for the tag.
    ///
    /// # Errors
    /// `DecodeError` for an unknown tag, `MessageTooLarge`.
    pub fn decode<W: Wire>(bytes: [u8; HEADER]) -> Result<Self, TransportError> {
        let [tag, l0, l1, l2, l3] = bytes;
        let limit = W::limit(tag).ok_or(TransportError::UnknownTag { tag })?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > limit {
            return Err(TransportError::MessageTooLarge { tag, limit, got: length });
        }
        Ok(Self { tag, length })
    }
}

/// The whole frame of a message.
///
/// # Errors
/// `MessageTooLarge` if the message exceeds its own limit: the peer would refuse it.
pub fn encode_frame<W: Wire>(message: &W) -> Result<Vec<u8>, TransportError> {
    let (tag, body) = (message.tag(), message.encode_body());
    let limit = W::limit(tag).ok_or(TransportError::UnknownTag { tag })?.min(u32::MAX as usize);
    if body.len() > limit {
        return Err(TransportError::MessageTooLarge { tag, limit, got: body.len() });
    }
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.push(tag);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Reads one frame from the front of `bytes`: the message and how many bytes it took, or `None` if the frame is not
/// complete yet.
///
/// # Errors
/// As [`Header::decode`], and `DecodeError` for a body that is not canonical. The header is judged as soon as it is
/// there, without waiting for the body.
pub fn decode_frame<W: Wire>(bytes: &[u8]) -> Result<Option<(W, usize)>, TransportError> {
    let Some(head) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let header = Header::decode::<W>(*head)?;
    let Some(body) = bytes.get(HEADER..HEADER + header.length) else { return Ok(None) };
    let message = W::decode_body(header.tag, body).map_err(TransportError::Decode)?;
    Ok(Some((message, HEADER + header.length)))
}

/// Declares the messages of a protocol: one enum, a tag and a byte limit for each, `From` for each message, and
/// [`Wire`].
///
/// Message types need borsh's `BorshSerialize` and `BorshDeserialize` and must differ from each other. Two equal
/// tags do not compile.
///
/// # Example
/// ```
/// use borsh::{BorshDeserialize, BorshSerialize};
/// use quorate_transport::{Wire, wire_enum};
///
/// #[derive(Debug, Clone, PartialEq, BorshSerialize, BorshDeserialize)]
/// pub struct Ask { pub slot: u64 }
/// #[derive(Debug, Clone, PartialEq, BorshSerialize, BorshDeserialize)]
/// pub struct Tell { pub bytes: Vec<u8> }
///
/// wire_enum! {
///     /// Questions and answers.
///     #[derive(Debug, Clone, PartialEq)]
///     pub enum Talk {
///         /// What is at a slot?
///         1 => Ask(Ask) <= 8,
///         /// This is.
///         2 => Tell(Tell) <= 4 + 1024,
///     }
/// }
///
/// let message = Talk::from(Ask { slot: 7 });
/// assert_eq!((message.tag(), message.name()), (1, "Ask"));
/// assert_eq!(Talk::limit(2), Some(1028));
/// assert_eq!(Talk::limit(3), None);
/// assert_eq!(Talk::decode_body(1, &message.encode_body()).unwrap(), message);
/// ```
#[macro_export]
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$message_meta:meta])* $tag:literal => $variant:ident($body:ty) <= $limit:expr),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$message_meta])* $variant($body),)+
        }

        impl $name {
            /// The message's name, for logs.
            #[allow(dead_code)]
            $vis fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)+
                }
            }
        }

        $(impl ::core::convert::From<$body> for $name {
            fn from(body: $body) -> Self {
                Self::$variant(body)
            }
        })+

        impl $crate::Wire for $name {
            fn tag(&self) -> u8 {
                match self {
                    $(Self::$variant(_) => $tag,)+
                }
            }

            #[deny(unreachable_patterns)]
            fn limit(tag: u8) -> ::core::option::Option<usize> {
                match tag {
                    $($tag => ::core::option::Option::Some($limit),)+
                    _ => ::core::option::Option::None,
                }
            }

            fn encode_body(&self) -> ::std::vec::Vec<u8> {
                match self {
                    $(Self::$variant(body) => $crate::encoding::to_bytes(body),)+
                }
            }

            fn decode_body(
                tag: u8,
                body: &[u8],
            ) -> ::core::result::Result<Self, $crate::encoding::DecodeError> {
                match tag {
                    $($tag => $crate::encoding::from_bytes::<$body>(body, $limit).map(Self::$variant),)+
                    _ => ::core::result::Result::Err($crate::encoding::DecodeError::Malformed {
                        name: stringify!($name),
                        offset: 0,
                        reason: ::std::format!("unknown tag {tag}"),
                    }),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::{Ask, BLOB_LIMIT, Blob, Talk};

    fn message() -> impl Strategy<Value = Talk> {
        prop_oneof![
            any::<u64>().prop_map(|number| Ask { number }.into()),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Blob { bytes }.into()),
        ]
    }

    #[test]
    fn test_frame_layout_is_fixed() {
        let frame = encode_frame(&Talk::from(Ask { number: 0x0102 })).unwrap();
        assert_eq!(frame, [1, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0], "a changed byte breaks every peer");
    }

    #[test]
    fn test_header_is_judged_without_waiting_for_the_body() {
        let error = decode_frame::<Talk>(&[2, 0xff, 0xff, 0xff, 0xff]).unwrap_err();
        assert!(matches!(
            error,
            TransportError::MessageTooLarge { tag: 2, limit: BLOB_LIMIT, got: 0xffff_ffff }
        ));
    }

    proptest! {
        #[test]
        fn test_any_bytes_decode_to_what_encodes_to_them_or_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Ok(Some((message, used))) = decode_frame::<Talk>(&bytes) {
                prop_assert_eq!(encode_frame(&message).unwrap(), &bytes[..used]);
            }
        }

        #[test]
        fn test_every_prefix_of_a_frame_is_incomplete_and_the_whole_is_the_message(message in message()) {
            let frame = encode_frame(&message).unwrap();
            for end in 0..frame.len() {
                prop_assert!(matches!(decode_frame::<Talk>(&frame[..end]), Ok(None)));
            }
            let followed = [&frame[..], &[9, 9]].concat();
            prop_assert_eq!(decode_frame::<Talk>(&followed).unwrap(), Some((message, frame.len())));
        }

        #[test]
        fn test_changed_length_is_never_the_same_message(message in message(), length in any::<u32>()) {
            let mut frame = encode_frame(&message).unwrap();
            let before = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]);
            prop_assume!(length != before);
            frame[1..5].copy_from_slice(&length.to_le_bytes());
            let decoded = decode_frame::<Talk>(&frame);
            prop_assert!(!matches!(decoded, Ok(Some((same, _))) if same == message));
        }
    }
}
