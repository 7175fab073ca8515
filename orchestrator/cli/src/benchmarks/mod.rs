//! `quorate bench`: every figure this project promises, measured in one run.
//!
//! ```text
//! boot  checkpoint  hashing  replay      in this process, under KVM
//! bulk                                   in this process, over loopback
//! certify  migration  memory  services   clusters of real processes on this machine
//! ```
//!
//! Absolute times say more about a machine than about a program, so each figure stands beside a baseline measured in the
//! same run, and the ratio of the two is what can be compared between machines. Samples of a figure and of its baseline
//! alternate, so that a noisy neighbour disturbs both.
//!
//! # Not promised
//!
//! One machine stands for all of them: there is no network but loopback, and the verifiers compete with the hosts for
//! its processors. Nothing fails because it is slow.

mod boot;
mod bulk;
mod certify;
mod checkpoint;
mod effort;
mod error;
mod hashing;
mod memory;
mod migration;
mod plain;
mod plot;
mod replay;
mod report;
mod scene;
mod services;
mod stats;
mod unverified;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;

use crate::cluster::Programs;
use effort::Effort;
pub use error::BenchError;
pub use report::{Aim, Baseline, Figure, Report, Row};
use scene::Scratch;

/// Measures what this project costs, each figure against a baseline of the same run.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench                            everything, a few minutes
  quorate bench --only boot --only replay  two figures
  quorate bench --out bench.json --plot downtime.svg
  quorate bench --quick                    does it work at all? its numbers mean nothing

Run it on a machine that does nothing else.")]
pub struct BenchArguments {
    /// Measure only this figure; may be given several times.
    #[arg(long, value_enum, value_name = "FIGURE")]
    pub only: Vec<Subject>,
    /// Few samples of small machines: shows that everything works, and measures nothing.
    #[arg(long)]
    pub quick: bool,
    /// Migrations to measure [default: 30].
    #[arg(long, value_name = "COUNT")]
    pub runs: Option<usize>,
    /// Replicas of the services measured; may be given several times [default: 4 and 7].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(4..=16))]
    pub replicas: Vec<u8>,
    /// Write the results as JSON to a file as well.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Draw the distribution of downtimes as an SVG file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Folder of quorate-host and the other programs [default: that of this program].
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Folder for the files of the clusters; its disk is measured [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Boot of a guest to its first doorbell.
    Boot,
    /// Time the guest stands still for a checkpoint.
    Checkpoint,
    /// Hashing of memory.
    Hashing,
    /// Speed of replay.
    Replay,
    /// Bulk stream.
    Bulk,
    /// Statement to certificate.
    Certify,
    /// Peak memory of the processes.
    Memory,
    /// Migration under load.
    Migration,
    /// Certified calls and proven reads of ordered services.
    Services,
}

impl Subject {
    /// Every figure, the quick ones first.
    pub const ALL: [Self; 9] = [
        Self::Boot,
        Self::Checkpoint,
        Self::Hashing,
        Self::Replay,
        Self::Bulk,
        Self::Certify,
        Self::Memory,
        Self::Migration,
        Self::Services,
    ];
}

/// What the measurements share.
struct Context {
    effort: Effort,
    /// As asked for; none for those of the effort.
    replicas: Vec<usize>,
    runtime: Runtime,
    programs: Programs,
    scratch: Scratch,
}

/// Measures. `progress` is told what is being measured.
///
/// # Errors
/// The first thing that does not work: a measurement that left something out would be no measurement.
pub fn run(arguments: &BenchArguments, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    let programs = match &arguments.programs {
        Some(folder) => Programs::in_folder(folder),
        None => Programs::beside_current()?,
    };
    let context = Context {
        effort: Effort::new(arguments.quick, arguments.runs),
        replicas: arguments.replicas.iter().map(|count| usize::from(*count)).collect(),
        runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        programs,
        scratch: Scratch::create(arguments.folder.as_deref())?,
    };
    let mut report = Report::new(arguments.quick);
    for subject in Subject::ALL {
        if arguments.only.is_empty() || arguments.only.contains(&subject) {
            measure(subject, &context, &mut report, progress)?;
        }
    }
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::downtimes(&report.downtimes))?;
    }
    if let Some(path) = &arguments.out {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    Ok(report)
}

fn measure(
    subject: Subject,
    context: &Context,
    report: &mut Report,
    progress: &mut dyn FnMut(&str),
) -> Result<(), BenchError> {
    let name = subject.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    progress(&name);
    let figure = match subject {
        Subject::Boot => boot::measure(context)?,
        Subject::Checkpoint => checkpoint::measure(context)?,
        Subject::Hashing => hashing::measure(context),
        Subject::Replay => replay::measure(context)?,
        Subject::Bulk => bulk::measure(context)?,
        Subject::Certify => context.runtime.block_on(certify::measure(context))?,
        Subject::Memory => context.runtime.block_on(memory::measure(context))?,
        Subject::Migration => {
            let (figure, downtimes) = migration::measure(context, progress)?;
            report.downtimes = downtimes;
            figure
        }
        Subject::Services => context.runtime.block_on(services::measure(context, progress))?,
    };
    report.figures.push(Figure { name, ..figure });
    Ok(())
}
