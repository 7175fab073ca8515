//! What the figures are compared with: copies and writes without anything of ours.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::stats::Samples;

/// Any port of this machine.
pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Bytes that go to a socket at once.
pub const CHUNK: usize = 256 << 10;
/// Bytes of a small record.
const RECORD: usize = 512;

/// Bytes that do not compress (xorshift64).
pub fn incompressible(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut data = vec![0; bytes];
    for word in data.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    data
}

/// Copies bytes over a TCP connection of loopback into memory that nobody has touched.
///
/// # Errors
/// The system's.
pub fn tcp_copy(data: &[u8]) -> std::io::Result<Duration> {
    let listener = TcpListener::bind(LOOPBACK)?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> std::io::Result<()> {
            let mut to = TcpStream::connect(address)?;
            to.set_nodelay(true)?;
            data.chunks(CHUNK).try_for_each(|chunk| to.write_all(chunk))
        });
        let (mut from, _) = listener.accept()?;
        let started = Instant::now();
        let mut copy = vec![0; data.len()];
        for chunk in copy.chunks_mut(CHUNK) {
            from.read_exact(chunk)?;
        }
        let took = started.elapsed();
        std::hint::black_box(&copy);
        sender.join().map_err(|_| std::io::Error::other("the sender panicked"))??;
        Ok(took)
    })
}

/// Writes small records one after the other into a file of zeros, as sign-logs and journals do, and makes each durable;
/// milliseconds.
///
/// # Errors
/// The system's.
pub fn syncs(folder: &Path, count: usize) -> std::io::Result<Samples> {
    let path = folder.join("sync");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    file.write_all_at(&vec![0; count * RECORD], 0)?;
    file.sync_all()?;
    let mut samples = Samples::new();
    for number in 0..count {
        let started = Instant::now();
        file.write_all_at(&[7; RECORD], (number * RECORD) as u64)?;
        file.sync_data()?;
        samples.push_ms(started.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incompressible_bytes_have_no_equal_pages() {
        let data = incompressible(1 << 20);
        let pages: std::collections::BTreeSet<&[u8]> = data.chunks(4096).collect();
        assert_eq!(pages.len(), 256);
    }

    #[test]
    fn copies_and_syncs_take_time() {
        assert!(tcp_copy(&incompressible(1 << 20)).unwrap() > Duration::ZERO);
        let folder = tempfile::tempdir().unwrap();
        let samples = syncs(folder.path(), 3).unwrap();
        assert!(samples.count() == 3 && samples.p50() > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
