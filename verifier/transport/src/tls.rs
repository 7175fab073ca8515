//! TLS 1.3 with raw Ed25519 public keys on both sides (RFC 8446, RFC 7250), for QUIC and for the bulk transport.
//!
//! One cipher suite, one key exchange group, no resumption, no early data: nothing to downgrade to and nothing to
//! replay. A key the directory does not know never gets past the handshake.

use std::sync::Arc;

use quorate_attest::key::{PublicKey, Signature};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible,
    SignatureScheme,
};

use crate::error::TransportError;
use crate::identity::{Identity, key_of_spki, spki};
use crate::peers::Gate;

/// Protocol name in the TLS handshake of message connections.
pub(crate) const ALPN_MESSAGES: &[u8] = b"quorate/1";
/// Protocol name in the TLS handshake of bulk connections.
pub(crate) const ALPN_BULK: &[u8] = b"quorate-bulk/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

fn certified(us: &Identity) -> Arc<CertifiedKey> {
    let chain = vec![CertificateDer::from(spki(us.public()))];
    Arc::new(CertifiedKey::new(chain, Arc::new(us.clone())))
}

/// Configuration of the accepting side.
pub(crate) fn server(
    us: &Identity,
    gate: Arc<Gate>,
    alpn: &[u8],
) -> Result<rustls::ServerConfig, TransportError> {
    let verifier = Arc::new(RawKeys { gate, expected: None });
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified(us))));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// Configuration of a dialling side that accepts `expected` and no other key.
pub(crate) fn client(
    us: &Identity,
    gate: Arc<Gate>,
    expected: PublicKey,
    alpn: &[u8],
) -> Result<rustls::ClientConfig, TransportError> {
    let verifier = Arc::new(RawKeys { gate, expected: Some(expected) });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
            certified(us),
        )));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

fn tls_setup(error: rustls::Error) -> TransportError {
    TransportError::Connection(format!("TLS configuration: {error}"))
}

/// Verifies raw public keys by asking the gate, and handshake signatures by the strict rule of the attest crate.
#[derive(Debug)]
struct RawKeys {
    gate: Arc<Gate>,
    expected: Option<PublicKey>,
}

impl RawKeys {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let key = key_of_spki(certificate).ok_or(CertificateError::BadEncoding)?;
        if self.expected.is_some_and(|expected| expected != key) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        match self.gate.role(&key) {
            Ok(_) => Ok(()),
            Err(TransportError::PeerRevoked { .. }) => Err(CertificateError::Revoked.into()),
            Err(TransportError::PeerBlocked { .. }) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            Err(_) => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        let key = key_of_spki(certificate).ok_or(CertificateError::BadEncoding)?;
        let bytes: [u8; 64] = signed.signature().try_into().map_err(|_| CertificateError::BadSignature)?;
        key.verify(message, &Signature::from_bytes(bytes)).map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

const ONLY_TLS13: rustls::Error = rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for RawKeys {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(ONLY_TLS13)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(ONLY_TLS13)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// What a TLS alert says about a key: the same code whether we sent it or the peer did.
pub(crate) fn error_of_alert(alert: AlertDescription, key: Option<PublicKey>) -> Option<TransportError> {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::BadCertificate => {
            Some(TransportError::PeerUnknown { key })
        }
        AlertDescription::CertificateRevoked => Some(TransportError::PeerRevoked { key }),
        AlertDescription::AccessDenied => Some(TransportError::PeerBlocked { key }),
        AlertDescription::NoApplicationProtocol => {
            let min = crate::limits::Versions::SPOKEN.lowest;
            Some(TransportError::VersionUnsupported { min, got: 0 })
        }
        _ => None,
    }
}
