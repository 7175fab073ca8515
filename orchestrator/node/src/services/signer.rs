//! What signs receipts: a process of its own, or something else that keeps its promises.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use quorate_attest::key::Signature;
use quorate_attest::service::ServiceReceipt;
use quorate_signer::SignerClient;
use quorate_signer::protocol::CosignRequest;

use super::guest::GuestError;

/// Something on its way from the signer.
pub type Signing<'a, T> = Pin<Box<dyn Future<Output = Result<T, GuestError>> + Send + 'a>>;

/// Signs for this node's replicas, and never two different things in one place. What it signed is durable before it answers.
pub trait ReceiptSigner: fmt::Debug + Send + Sync {
    /// One signature for each receipt; none for one that contradicts what was signed.
    fn sign<'a>(&'a self, receipts: &'a [ServiceReceipt]) -> Signing<'a, Vec<Option<Signature>>>;
    /// Size of the newest head that was cosigned for a log; 0 if none was.
    fn cosigned<'a>(&'a self, origin: &'a str) -> Signing<'a, u64>;
    /// A cosignature line over a head.
    fn cosign(&self, request: CosignRequest) -> Signing<'_, String>;
}

impl ReceiptSigner for SignerClient {
    fn sign<'a>(&'a self, receipts: &'a [ServiceReceipt]) -> Signing<'a, Vec<Option<Signature>>> {
        Box::pin(async move {
            let statements = receipts.iter().map(|receipt| receipt.to_statement().encode()).collect();
            let answers = SignerClient::sign(self, statements).await;
            let answers = answers.map_err(|error| GuestError::new(error.kind(), &error))?;
            let mut signatures = Vec::with_capacity(answers.len());
            for (answer, receipt) in answers.into_iter().zip(receipts) {
                if let Err(refused) = &answer {
                    let (service, number) = (receipt.service, receipt.number);
                    tracing::warn!(%service, number, error_kind = refused.kind, "not signed: {}", refused.detail);
                }
                signatures.push(answer.ok());
            }
            Ok(signatures)
        })
    }

    fn cosigned<'a>(&'a self, origin: &'a str) -> Signing<'a, u64> {
        Box::pin(async move {
            let public = self.public().await.map_err(|error| GuestError::new(error.kind(), &error))?;
            Ok(public.heads.iter().find(|head| head.origin == origin).map_or(0, |head| head.size))
        })
    }

    fn cosign(&self, request: CosignRequest) -> Signing<'_, String> {
        Box::pin(async move {
            SignerClient::cosign(self, request).await.map_err(|error| GuestError::new(error.kind(), &error))
        })
    }
}
