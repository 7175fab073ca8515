//! How much is measured.

use std::time::Duration;

/// Sizes and numbers of samples.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Boots.
    pub boots: usize,
    /// Memory of the guest that is checkpointed, MiB.
    pub checkpoint_mib: u64,
    /// Checkpoints of each kind.
    pub checkpoints: usize,
    /// Memory that is hashed, MiB.
    pub hashing_mib: usize,
    /// Rounds over it.
    pub hashing_rounds: usize,
    /// Length of a recording.
    pub recording: Duration,
    /// Recordings of each kind.
    pub recordings: usize,
    /// Bytes of one transfer, MiB.
    pub transfer_mib: usize,
    /// Transfers of each kind.
    pub transfers: usize,
    /// Memory of the guest whose slots are certified, MiB.
    pub certify_mib: u64,
    /// Time that slots are certified in each mode.
    pub certify: Duration,
    /// Small writes made durable.
    pub syncs: usize,
    /// Memory of the guest that is migrated, MiB.
    pub migration_mib: u64,
    /// Migrations.
    pub migrations: usize,
    /// Migrations without verification, and plain copies.
    pub unverified: usize,
    /// Requests a second during migrations.
    pub rate: f64,
    /// Ordered services.
    pub services: ServicesEffort,
}

/// Sizes and numbers of samples of ordered services.
#[derive(Clone, Copy, Debug)]
pub struct ServicesEffort {
    /// Orchestrators, and so replicas, of each cluster.
    pub groups: &'static [usize],
    /// Calls of each kind by one client.
    pub calls: usize,
    /// Calls in a row, before another kind has its turn.
    pub in_a_row: usize,
    /// How many clients call at once, ascending.
    pub clients: &'static [usize],
    /// Time of a round with many clients.
    pub round: Duration,
    /// Rounds of each kind.
    pub rounds: usize,
    /// Calls of each kind through the gateway.
    pub gateway: usize,
    /// Names registered before proofs are measured and names put before all others, ascending.
    pub names: &'static [usize],
    /// Names put before all others at each of these sizes.
    pub first: usize,
}

impl ServicesEffort {
    /// Most clients that call at once.
    pub fn most_clients(&self) -> usize {
        self.clients.iter().copied().max().unwrap_or(1)
    }
}

impl Effort {
    /// Everything, or just enough to see that it works.
    pub fn new(quick: bool, runs: Option<usize>) -> Self {
        let mut effort = if quick { Self::QUICK } else { Self::FULL };
        if let Some(runs) = runs {
            (effort.migrations, effort.unverified) = (runs.max(1), runs.max(1));
        }
        effort
    }

    const FULL: Self = Self {
        boots: 200,
        checkpoint_mib: 256,
        checkpoints: 20,
        hashing_mib: 256,
        hashing_rounds: 7,
        recording: Duration::from_secs(1),
        recordings: 7,
        transfer_mib: 1024,
        transfers: 5,
        certify_mib: 64,
        certify: Duration::from_secs(8),
        syncs: 300,
        migration_mib: 256,
        migrations: 30,
        unverified: 30,
        rate: 200.0,
        services: ServicesEffort {
            groups: &[4, 7],
            calls: 200,
            in_a_row: 20,
            clients: &[4, 16],
            round: Duration::from_secs(2),
            rounds: 3,
            gateway: 100,
            names: &[1_000, 10_000],
            first: 60,
        },
    };

    const QUICK: Self = Self {
        boots: 3,
        checkpoint_mib: 32,
        checkpoints: 2,
        hashing_mib: 8,
        hashing_rounds: 1,
        recording: Duration::from_millis(30),
        recordings: 1,
        transfer_mib: 16,
        transfers: 1,
        certify_mib: 16,
        certify: Duration::from_millis(700),
        syncs: 5,
        migration_mib: 32,
        migrations: 2,
        unverified: 2,
        rate: 100.0,
        services: ServicesEffort {
            groups: &[4],
            calls: 4,
            in_a_row: 2,
            clients: &[2],
            round: Duration::from_millis(300),
            rounds: 1,
            gateway: 2,
            names: &[128, 256],
            first: 2,
        },
    };

    /// Bytes that are filled with incompressible data in a kv guest of this size: nearly what its service may hold,
    /// with room left for the load.
    pub fn fill_bytes(memory_mib: u64) -> u64 {
        ((memory_mib.saturating_sub(12) << 20) / 8 * 5).saturating_sub(4 << 20) & !7
    }
}
