//! `quorate key`: makes keys and shows their public halves.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::to_hex;
use quorate_attest::key::SecretKey;
use quorate_attest::possession::{Possession, Role as PossessionRole};
use quorate_verifier::key_file;
use serde_json::json;

use super::exit;
use super::failure::Failure;
use super::output::Output;

/// Makes keys and shows their public halves.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate key generate --role vote --out verifier-0.vote
  quorate key generate --role host --out host-a.host --json
  quorate key show --public verifier-0.vote")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a new key in a file that only its owner may read. An existing file is never replaced.
    Generate {
        /// What the key will be used for. One key serves one role of one node.
        #[arg(long)]
        role: Role,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Shows the public half of a key.
    Show {
        /// Show the public key; there is no way to show the private one.
        #[arg(long, required = true)]
        public: bool,
        /// Key file.
        file: PathBuf,
    },
    /// Proves possession of a key for one role of one member of one group, to whoever writes the group file.
    Prove {
        /// Role.
        #[arg(long)]
        role: Role,
        /// Name of the group.
        #[arg(long)]
        group: String,
        /// Name of the member.
        #[arg(long)]
        member: String,
        /// Key file.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Attestations and votes of a verifier.
    Vote,
    /// C2SP cosignatures of a verifier.
    Cosigner,
    /// Connections of a verifier.
    Transport,
    /// Proposals and connections of a host.
    Host,
    /// Orders of an operator.
    Operator,
    /// Requests of a client.
    Client,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Cosigner => "cosigner",
            Self::Transport => "transport",
            Self::Host => "host",
            Self::Operator => "operator",
            Self::Client => "client",
        }
    }

    fn of_group(self) -> Option<PossessionRole> {
        Some(match self {
            Self::Vote => PossessionRole::Vote,
            Self::Cosigner => PossessionRole::Cosigner,
            Self::Transport => PossessionRole::Transport,
            Self::Host => PossessionRole::Host,
            Self::Operator => PossessionRole::Operator,
            Self::Client => return None,
        })
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    match &arguments.command {
        Command::Generate { role, out } => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
            let key = SecretKey::from_seed(seed);
            key_file::write(out, &key)?;
            let public = key.public();
            output.line(&format!("{} key {public} in {}", role.name(), out.display()));
            output.object(&json!({"result": "ok", "role": role.name(), "public": public, "file": out}));
        }
        Command::Show { file, .. } => {
            let public = key_file::read(file)?.public();
            output.line(&public.to_string());
            output.object(&json!({"result": "ok", "public": public, "file": file}));
        }
        Command::Prove { role, group, member, file } => {
            let Some(in_group) = role.of_group() else {
                return Err(Failure::usage("a client is no member of a group and has nothing to prove"));
            };
            let key = key_file::read(file)?;
            let proof = Possession::prove(group, member, in_group, &key);
            // A name outside the character set makes a proof that nobody can read.
            let encoded = proof.encoded();
            Possession::decoded(&encoded).map_err(|error| Failure::usage(error.to_string()))?;
            let text = to_hex(&encoded);
            output.line(&text);
            output
                .object(&json!({"result": "ok", "role": role.name(), "public": key.public(), "proof": text}));
        }
    }
    Ok(exit::OK)
}
