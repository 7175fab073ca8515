//! `quorate cluster init`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{DEFAULT_FOLDER, systemd};
use crate::cluster::{self, Folder, Place, Plan, Programs};
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of the cluster; it must not hold one yet.
    #[arg(env = "QUORATE_CLUSTER", default_value = DEFAULT_FOLDER)]
    pub folder: PathBuf,
    #[command(flatten)]
    pub size: Size,
    /// Where a node listens: its UDP port, and for hosts (state) and orchestrators (HTTP) the TCP port of the same number.
    /// May be given for each node; the others get free ports of this machine.
    #[arg(long = "address", value_name = "NAME=IP:PORT", value_parser = parse_address)]
    addresses: Vec<(String, SocketAddr)>,
    /// Also write a systemd unit for each node into DIR/systemd.
    #[arg(long)]
    systemd: bool,
}

/// How many nodes of each kind.
#[derive(Clone, Debug, Args)]
pub struct Size {
    /// Orchestrators: fewer than a third of them may be Byzantine.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    orchestrators: u16,
    /// Verifiers: fewer than a third of them may be Byzantine.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    verifiers: u16,
    /// How many of the verifiers, the last ones, only sample.
    #[arg(long, default_value_t = 0)]
    sampled: u16,
    /// Hosts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=26))]
    hosts: u16,
    /// Ordered services that the cluster shall have room for: a signer for each orchestrator, and a host for each replica of
    /// each. Create them with `quorate service create`. May be repeated.
    #[arg(long = "service", value_name = "NAME", value_parser = parse_service)]
    services: Vec<String>,
    /// Name of the verifiers' group.
    #[arg(long, default_value = "cluster")]
    name: String,
}

impl Size {
    /// A plan of that size.
    pub fn plan(&self, folder: &std::path::Path, programs: Programs) -> Plan {
        let host = |number: u8| format!("host-{}", char::from(b'a' + number));
        Plan {
            name: self.name.clone(),
            orchestrators: self.orchestrators.into(),
            verifiers: self.verifiers.into(),
            sampled: self.sampled.into(),
            hosts: (0..self.hosts as u8).map(host).collect(),
            services: self.services.clone(),
            ..Plan::new(folder, programs)
        }
    }
}

fn parse_service(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if good { Ok(text.to_owned()) } else { Err("must be 1 to 32 of a-z 0-9 -".to_owned()) }
}

fn parse_address(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("must be NAME=IP:PORT")?;
    let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
    Ok((name.to_owned(), address))
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let programs = Programs::beside_current().map_err(Failure::usage)?;
    let mut plan = arguments.size.plan(&arguments.folder, programs);
    plan.places = places(&arguments.addresses);
    let folder = create(&plan)?;
    if let Some(unknown) = plan.places.keys().find(|name| folder.entry(name).is_none()) {
        return Err(Failure::usage(format!("--address names {unknown}, which is no node of this cluster")));
    }
    let units = if arguments.systemd { systemd::write(&folder, &plan.programs)? } else { Vec::new() };
    output.object(&json!({
        "result": "initialised",
        "folder": folder.root(),
        "nodes": folder.index.nodes,
        "verifiers": folder.group.id().to_string(),
        "orchestrators": folder.orchestrators.id().to_string(),
        "units": units,
    }));
    let groups = [("orchestrators", folder.orchestrators.current()), ("verifiers", folder.group.current())];
    let replicas = folder.replicas.iter().map(|replicas| ("replicas", replicas));
    for (what, group) in groups.into_iter().chain(replicas) {
        let (n, f) = (group.members.len(), group.f);
        let quorum = group.rule().map_or(0, |rule| rule.quorum());
        output.line(&format!("  {what:<14} n = {n}, f = {f}, quorum {quorum}"));
    }
    output.line(&format!("  {:<14} {}", "hosts", folder.group.hosts.len()));
    output.line(&format!("\nWritten to {}. Start it with: quorate cluster up {0}", folder.root().display()));
    if !units.is_empty() {
        let units = folder.root().join("systemd");
        output.line(&format!("Units for servers are in {}; each says where it belongs.", units.display()));
    }
    Ok(exit::OK)
}

/// Creates the folder of a new cluster, and the sign-logs of its nodes.
pub fn create(plan: &Plan) -> Result<Folder, Failure> {
    if plan.folder.join("cluster.toml").exists() {
        let text = format!("{} holds a cluster already", plan.folder.display());
        return Err(Failure::new(exit::CONFIGURATION, "AlreadyInitialised", text).next("name another folder"));
    }
    let folder = Folder::create(plan)?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    runtime.block_on(cluster::initialise(&folder, &plan.programs))?;
    Ok(folder)
}

fn places(addresses: &[(String, SocketAddr)]) -> BTreeMap<String, Place> {
    let place = |(name, address): &(String, SocketAddr)| {
        // The control interface of an orchestrator never leaves the machine.
        let local = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), address.port());
        let service = if name.starts_with("orchestrator") { local } else { *address };
        (name.clone(), Place { messages: *address, service })
    };
    addresses.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_node_and_a_place() {
        let (name, address) = parse_address("host-a=192.0.2.1:7400").unwrap();
        assert_eq!((name.as_str(), address.port()), ("host-a", 7400));
        assert!(parse_address("host-a").is_err() && parse_address("host-a=somewhere").is_err());
    }

    #[test]
    fn the_control_interface_of_an_orchestrator_stays_on_the_machine() {
        let address = |name: &str| (name.to_owned(), "192.0.2.1:7400".parse().unwrap());
        let places = places(&[address("orchestrator-0"), address("host-a")]);
        assert!(places["orchestrator-0"].service.ip().is_loopback());
        assert_eq!(places["host-a"].service, places["host-a"].messages);
    }
}
