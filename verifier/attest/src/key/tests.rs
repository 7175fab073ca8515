use alloc::format;
use alloc::string::ToString;

use super::*;

/// RFC 8032, section 7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn secret() -> SecretKey {
    SecretKey::from_seed(from_hex("seed", SEED).unwrap())
}

fn identity_bytes() -> [u8; 32] {
    let mut bytes = [0u8; 32];
    bytes[0] = 1;
    bytes
}

/// `a + b` as little-endian numbers.
fn add(a: &[u8], b: &[u8; 32]) -> [u8; 32] {
    let mut sum = [0u8; 32];
    let mut carry = 0u16;
    for (index, byte) in sum.iter_mut().enumerate() {
        carry += u16::from(a[index]) + u16::from(b[index]);
        *byte = carry as u8;
        carry >>= 8;
    }
    sum
}

#[test]
fn test_rfc_8032_key_and_empty_message() {
    assert_eq!(secret().public().to_string(), PUBLIC);
    let signature = secret().sign(b"");
    assert_eq!(
        signature.to_string(),
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    );
    assert_eq!(secret().public().verify(b"", &signature), Ok(()));
}

#[test]
fn test_identity_key_attack_is_refused_before_any_message_is_looked_at() {
    assert_eq!(PublicKey::from_bytes(identity_bytes()), Err(KeyError::SmallOrder));
    let mut forged = [0u8; 64];
    forged[0] = 1;
    // Even with the check on decoding out of the way, verification refuses what the permissive rule accepts.
    let undecodable = PublicKey(identity_bytes());
    let forged = Signature::from_bytes(forged);
    let dalek = ed25519_dalek::VerifyingKey::from_bytes(&identity_bytes()).unwrap();
    let parsed = ed25519_dalek::Signature::from_bytes(forged.as_bytes());
    for message in [&b"any"[..], b"message", b"at all"] {
        use ed25519_dalek::Verifier;
        assert!(dalek.verify(message, &parsed).is_ok(), "the attack needs the permissive rule to accept");
        assert_eq!(undecodable.verify(message, &forged), Err(SignatureError::NonCanonical));
    }
}

#[test]
fn test_all_small_order_and_non_canonical_small_points_are_refused_as_keys() {
    // The eight torsion points and their non-canonical encodings, from the literature on Ed25519 validation.
    const SMALL: [&str; 13] = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ];
    for text in SMALL {
        let bytes: [u8; 32] = from_hex("key", text).unwrap();
        let error = PublicKey::from_bytes(bytes).unwrap_err();
        assert_eq!(error.kind(), "SignatureNonCanonical", "{text}");
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
        assert!(PublicKey::decoded(&bytes).is_err(), "{text}");
    }
}

#[test]
fn test_non_canonical_key_of_large_order_is_refused() {
    // y + p for the small y that are on the curve: the same point as y, another encoding.
    let mut p = [0xffu8; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut refused = 0;
    for y in 2u8..19 {
        let mut canonical = [0u8; 32];
        canonical[0] = y;
        if PublicKey::from_bytes(canonical).is_ok() {
            let shifted = add(&p, &canonical);
            assert_eq!(PublicKey::from_bytes(shifted), Err(KeyError::NonCanonical), "y = {y}");
            refused += 1;
        }
    }
    assert!(refused > 0, "no such y: the test proves nothing");
}

#[test]
fn test_signature_with_s_plus_order_is_refused_as_non_canonical() {
    let message = b"malleable";
    let good = secret().sign(message).to_bytes();
    let mut twin = good;
    twin[32..].copy_from_slice(&add(&good[32..], &ORDER));
    let twin = Signature::from_bytes(twin);
    assert!(!twin.is_canonical());
    assert_eq!(secret().public().verify(message, &twin), Err(SignatureError::NonCanonical));
    // The order itself is not below the order.
    let mut edge = good;
    edge[32..].copy_from_slice(&ORDER);
    assert!(!Signature::from_bytes(edge).is_canonical());
    edge[32] -= 1;
    assert!(Signature::from_bytes(edge).is_canonical());
}

#[test]
fn test_signature_with_small_order_or_non_canonical_r_is_refused() {
    let good = secret().sign(b"r").to_bytes();
    for r in [identity_bytes(), [0u8; 32], [0xff; 32]] {
        let mut bytes = good;
        bytes[..32].copy_from_slice(&r);
        let error = secret().public().verify(b"r", &Signature::from_bytes(bytes)).unwrap_err();
        assert_eq!(error.kind(), "SignatureNonCanonical");
    }
}

#[test]
fn test_every_flipped_bit_of_a_signature_is_refused() {
    let good = secret().sign(b"bits").to_bytes();
    for bit in 0..512 {
        let mut bytes = good;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(secret().public().verify(b"bits", &Signature::from_bytes(bytes)).is_err(), "bit {bit}");
    }
    assert_eq!(
        secret().public().verify(b"other", &Signature::from_bytes(good)).map_err(|e| e.kind()),
        Err("BadSignature")
    );
}

#[test]
fn test_secret_key_is_not_printed_and_survives_storing() {
    let text = format!("{:?}", secret());
    assert!(!text.contains(&SEED[..8]), "{text}");
    assert_eq!(SecretKey::from_seed(*secret().to_seed()).public(), secret().public());
    assert_eq!(secret().to_pkcs8().len(), 48);
}

#[test]
fn test_nobody_is_a_key_like_any_other_to_decoders() {
    assert_eq!(PublicKey::from_bytes(PublicKey::NOBODY.to_bytes()), Ok(PublicKey::NOBODY));
}
