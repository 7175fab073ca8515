//! Serves the state of slots to whoever was offered it: a destination, or a verifier that cannot follow by replay alone.
//!
//! Each offer is good for one connection of one peer, and for a short while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::key::PublicKey;
use quorate_transport::TransportError;
use quorate_transport::bulk::{Bulk, BulkListener, BulkStream, Expected, Purpose};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::state_stream::{self, Alter};

use super::conduct::Conduct;
use super::inquiries::fresh;
use super::vm_thread::SlotState;

/// How long an offer waits for its peer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// States that may be served at once.
const SERVING_MAX: usize = 8;

/// The bulk listener of a host.
#[derive(Debug)]
pub struct StateServer {
    listener: BulkListener,
    address: SocketAddr,
    conduct: Arc<dyn Conduct>,
    serving: Arc<tokio::sync::Semaphore>,
}

impl StateServer {
    /// Binds the listener.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn bind(
        bulk: &Bulk,
        address: SocketAddr,
        conduct: Arc<dyn Conduct>,
    ) -> Result<Arc<Self>, TransportError> {
        let listener = bulk.listen(address)?;
        let address = listener.local_addr()?;
        let serving = Arc::new(tokio::sync::Semaphore::new(SERVING_MAX));
        Ok(Arc::new(Self { listener, address, conduct, serving }))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Offers a state to one peer. The answer goes into the message that tells the peer; an offer that cannot be made
    /// has a token that nobody accepts.
    pub fn offer(&self, state: &SlotState, peer: PublicKey) -> (String, [u8; 32]) {
        let address = self.address.to_string();
        let expected = self.serving.clone().try_acquire_owned().ok().and_then(|permit| {
            let token = fresh::<32>().ok()?;
            let expected = self.listener.announce(&peer, Purpose::new(token).ok()?).ok()?;
            Some((permit, token, expected))
        });
        let Some((permit, token, expected)) = expected else {
            tracing::warn!(error_kind = "QueueFull", "no further state can be served at the moment");
            return (address, [0; 32]);
        };
        let checkpoint = self.conduct.stream(state.checkpoint.clone());
        let conduct = Arc::clone(&self.conduct);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = serve(&expected, &checkpoint, conduct.as_ref()) {
                tracing::info!(error_kind = error.kind(), %error, "a state was not taken");
            }
            drop(permit);
        });
        (address, token)
    }
}

fn serve(expected: &Expected, checkpoint: &Checkpoint, conduct: &dyn Conduct) -> Result<(), TransportError> {
    let mut stream: BulkStream = expected.accept(OFFER_TIMEOUT)?;
    let mut alter =
        |index: u32, page: &mut quorate_vmm::page_tree::Page| conduct.page(index, page, &checkpoint.pages);
    let alter: Option<&mut Alter<'_>> = if conduct.alters_pages() { Some(&mut alter) } else { None };
    let sent = state_stream::send(&mut stream, checkpoint, alter);
    sent.map_err(|error| TransportError::Connection(error.to_string()))?;
    stream.finish()
}
