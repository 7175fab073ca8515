//! The bulk stream against plain TCP.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_attest::key::SecretKey;
use quorate_transport::bulk::{Bulk, BulkListener, BulkStream, Purpose};
use quorate_transport::{Limits, Members, Role, TransportError};

use super::plain::{CHUNK, LOOPBACK, incompressible, tcp_copy};
use super::report::{Figure, Row};
use super::stats::Samples;
use super::{BenchError, Context};
use quorate_host::inquiries::fresh;

const ACCEPT_WITHIN: Duration = Duration::from_secs(5);

pub(super) fn measure(context: &Context) -> Result<Figure, BenchError> {
    let data = incompressible(context.effort.transfer_mib << 20);
    let rate = |took: Duration| data.len() as f64 / 1e6 / took.as_secs_f64();
    let link = Link::new()?;
    let (mut plain, mut bulk) = (Samples::new(), Samples::new());
    for _ in 0..context.effort.transfers {
        plain.push(rate(tcp_copy(&data)?));
        bulk.push(rate(link.copy(&data)?));
    }
    let row = Row::new("TLS 1.3 over TCP, one connection", "MB/s", &bulk).against("plain TCP", plain.p50());
    Ok(Figure {
        title: format!("{} MiB over loopback into fresh memory", context.effort.transfer_mib),
        rows: vec![Row { p99: None, ..row }],
        notes: vec!["both ends share this machine's processors".into()],
        ..Figure::default()
    })
}

/// Two hosts' sides of the bulk transport.
pub(super) struct Link {
    listener: BulkListener,
    source: SecretKey,
    destination: SecretKey,
    destination_side: Bulk,
}

impl Link {
    pub(super) fn new() -> Result<Self, BenchError> {
        let (source, destination) = (SecretKey::from_seed(fresh()?), SecretKey::from_seed(fresh()?));
        let hosts = [source.public(), destination.public()];
        let members = hosts.into_iter().fold(Members::new(), |members, key| members.with(key, Role::Host));
        let directory = Arc::new(members);
        let listener = Bulk::new(&source, directory.clone(), Limits::default()).listen(LOOPBACK)?;
        let destination_side = Bulk::new(&destination, directory, Limits::default());
        Ok(Self { listener, source, destination, destination_side })
    }

    /// A connection as migrations have it: the destination dials. Source's end first.
    pub(super) fn connect(&self) -> Result<(BulkStream, BulkStream), BenchError> {
        let purpose = Purpose::new(fresh()?)?;
        let expected = self.listener.announce(&self.destination.public(), purpose)?;
        let address = self.listener.local_addr()?;
        let theirs = self.destination_side.connect(address, &self.source.public(), purpose)?;
        Ok((expected.accept(ACCEPT_WITHIN)?, theirs))
    }

    fn copy(&self, data: &[u8]) -> Result<Duration, BenchError> {
        let (mut to, mut from) = self.connect()?;
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || -> Result<(), TransportError> {
                data.chunks(CHUNK).try_for_each(|chunk| to.transmit(chunk))?;
                to.finish()
            });
            let started = Instant::now();
            let mut copy = vec![0; data.len()];
            for chunk in copy.chunks_mut(CHUNK) {
                from.read_exact(chunk)?;
            }
            let took = started.elapsed();
            std::hint::black_box(&copy);
            sender.join().map_err(|_| BenchError::unexpected("the sender panicked"))??;
            Ok(took)
        })
    }
}
