//! Storage that fails as a test says.

use std::io;
use std::sync::{Arc, Mutex};

use crate::sign_log::Storage;

/// A device in memory that fails where the test says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Device(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What a reader sees.
    pub(crate) written: Vec<u8>,
    /// What survives a power cut.
    pub(crate) synced: Vec<u8>,
    pub(crate) broken: Option<Vec<u8>>,
    pub(crate) syncs: usize,
    pub(crate) fail_sync: Option<usize>,
    pub(crate) write_at_most: Option<usize>,
    pub(crate) capacity: Option<usize>,
}

impl Device {
    pub(crate) fn with(bytes: &[u8]) -> Self {
        let device = Self::default();
        device.edit(|disk| {
            disk.written = bytes.to_vec();
            disk.synced = bytes.to_vec();
        });
        device
    }

    pub(crate) fn edit<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// The i-th sync from now fails.
    pub(crate) fn fail_sync(&self, i: usize) {
        self.edit(|disk| disk.fail_sync = Some(disk.syncs + i));
    }

    /// A device with what survives a power cut now.
    pub(crate) fn after_power_cut(&self) -> Self {
        Self::with(&self.synced())
    }

    pub(crate) fn synced(&self) -> Vec<u8> {
        self.edit(|disk| disk.synced.clone())
    }
}

impl Storage for Device {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.edit(|disk| disk.written.clone()))
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.edit(|disk| {
            let at = offset as usize;
            let mut take = bytes.len().min(disk.write_at_most.unwrap_or(usize::MAX));
            if let Some(capacity) = disk.capacity {
                take = take.min(capacity.saturating_sub(at));
                if take == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            let end = at + take;
            if disk.written.len() < end {
                disk.written.resize(end, 0);
            }
            disk.written[at..end].copy_from_slice(&bytes[..take]);
            Ok(take)
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.edit(|disk| {
            disk.syncs += 1;
            if disk.fail_sync == Some(disk.syncs) {
                // As a kernel does: the pages are marked clean, and the next sync would say Ok.
                return Err(io::Error::other("EIO"));
            }
            disk.synced = disk.written.clone();
            Ok(())
        })
    }

    fn keep_broken(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.edit(|disk| disk.broken = Some(bytes.to_vec()));
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.edit(|disk| {
            disk.written = bytes.to_vec();
            disk.synced = bytes.to_vec();
        });
        Ok(())
    }
}
