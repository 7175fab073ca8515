//! What is expected of the files: taken from the command line, or from files beside them.

use std::path::{Path, PathBuf};

use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Epoch, ServiceId, VmId};
use quorate_attest::policy::Policy;
use quorate_attest::service::ServiceSpec;
use quorate_attest::statement::{Expected, Kind};
use quorate_attest::vm::VmSpec;
use quorate_guest_images::ALL;
use quorate_verifier::config::{GroupFiles, group_file};
use quorate_vmm::Image;

use super::super::exit;
use super::super::failure::Failure;
use super::super::image;
use super::super::output::{Output, Tone, short, wrap};
use super::Arguments;
use super::audit::Case;
use super::freshness::Age;
use super::material::{files_ending_in, read_bytes};

/// Everything a check may rely on.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The group in its newest epoch, where it is known.
    pub group: Option<GroupConfig>,
    /// The orchestrators' group in its newest epoch, where it is known: it grants generations.
    pub orchestrators: Option<GroupConfig>,
    /// The group of the services' replicas, where it is known.
    pub replicas: Option<GroupConfig>,
    /// The services that are known.
    services: Vec<ServiceSpec>,
    /// Earlier epochs of both, where `links/` beside their files leads on from them.
    chains: [Option<GroupChain>; 2],
    /// The VM, where it is known.
    pub vm: Option<VmId>,
    /// Its specification, where it is known.
    pub spec: Option<VmSpec>,
    /// Its image, where it is known.
    pub image: Option<Image>,
    /// The policy for notes and proofs.
    pub policy: Option<Policy>,
    /// The statement that a proof is about.
    pub statement: Option<Vec<u8>>,
    /// The weakest attestation that counts.
    pub weakest: Kind,
    /// Oldest cosignature that counts.
    pub age: Option<Age>,
    /// Lowest newest slot.
    pub slot_min: Option<u64>,
    sources: Vec<String>,
}

impl Trust {
    /// Reads what the arguments name, and what lies beside the first path.
    pub fn gather(arguments: &Arguments) -> Result<Self, Failure> {
        let beside = beside(&arguments.paths);
        let mut sources = Vec::new();
        let mut find = |given: &Option<PathBuf>, names: &[&str]| -> Option<PathBuf> {
            if let Some(path) = given {
                return Some(path.clone());
            }
            let name = names.iter().find(|name| beside.join(name).is_file())?;
            sources.push((*name).to_owned());
            Some(beside.join(name))
        };
        let chain = find(&arguments.group, &["group.toml"]).map(|path| read_group(&path)).transpose()?;
        let orchestrators = find(&arguments.orchestrators, &["orchestrators.toml"]);
        let chains = [chain, orchestrators.map(|path| read_group(&path)).transpose()?];
        let [group, orchestrators] =
            chains.each_ref().map(|chain| chain.as_ref().map(|chain| chain.current().clone()));
        let replicas =
            find(&arguments.replicas, &["services.toml"]).map(|path| read_replicas(&path)).transpose()?;
        let spec = find(&None, &["vm.spec"]).map(|path| read_spec(&path)).transpose()?;
        let policy = find(&arguments.policy, &["group.policy", "policy.txt"])
            .map(|path| read_policy(&path))
            .transpose()?;
        let policy = match (policy, &group) {
            (None, Some(group)) => Some(policy_of(group)?),
            (policy, _) => policy,
        };
        let services = match arguments.services.is_empty() {
            false => arguments.services.clone(),
            true => files_ending_in(&beside, "service").unwrap_or_default(),
        };
        let services = services.iter().map(|path| read_service(path)).collect::<Result<Vec<_>, _>>()?;
        let (vm, spec) = expected_vm(arguments, spec)?;
        let image = image_of(arguments, spec.as_ref())?;
        let statement = arguments.statement.as_deref().map(read_bytes).transpose()?;
        let weakest = if arguments.replayed_only { Kind::SLOT_REPLAYED } else { Kind::SLOT_SAMPLED };
        let (age, slot_min) = (arguments.not_older_than, arguments.min_slot);
        Ok(Self {
            group,
            orchestrators,
            replicas,
            services,
            chains,
            vm,
            spec,
            image,
            policy,
            statement,
            weakest,
            age,
            slot_min,
            sources,
        })
    }

    /// What a case states, and nothing else.
    pub fn of(case: &Case<'_>) -> Result<Self, Failure> {
        let bad = |kind: &str, text: String| Failure::new(exit::USAGE, kind, text);
        let group = case.group.map(|bytes| {
            let text = str::from_utf8(bytes).map_err(|error| bad("BadConfig", error.to_string()))?;
            group_file::parse(text).map_err(|problem| bad("BadConfig", problem.text))
        });
        let group = group.transpose()?;
        let policy = case
            .policy
            .map(|bytes| Policy::parse(bytes).map_err(|error| bad(error.kind(), error.to_string())));
        let policy = match (policy.transpose()?, &group) {
            (None, Some(group)) => Some(policy_of(group)?),
            (policy, _) => policy,
        };
        Ok(Self {
            group,
            orchestrators: None,
            replicas: None,
            services: Vec::new(),
            chains: [None, None],
            vm: case.vm,
            spec: None,
            image: None,
            policy,
            statement: case.statement.map(<[u8]>::to_vec),
            weakest: Kind::SLOT_SAMPLED,
            age: case.not_before.map(|not_before| Age { not_before }),
            slot_min: None,
            sources: Vec::new(),
        })
    }

    /// The group, or how to name one.
    pub fn group(&self) -> Result<&GroupConfig, Failure> {
        let failure = || Failure::usage("nothing says which group is expected");
        self.group.as_ref().ok_or_else(|| failure().next("name its file with --group FILE"))
    }

    /// The group of the services' replicas, or how to name it.
    pub fn replicas(&self) -> Result<&GroupConfig, Failure> {
        let failure = || Failure::usage("nothing says which replicas a service has");
        self.replicas.as_ref().ok_or_else(|| failure().next("name their group's file with --replicas FILE"))
    }

    /// The service that is expected, if it is the one with this id.
    pub fn service(&self, id: &ServiceId) -> Result<&ServiceSpec, Failure> {
        let failure = || Failure::usage(format!("nothing says that service {id} is expected"));
        let found = self.services.iter().find(|spec| spec.id() == *id);
        found.ok_or_else(|| failure().next("name its specification with --service FILE"))
    }

    /// The group of the ordered log: the orchestrators where they are named, else the group.
    pub fn log_group(&self) -> Result<&GroupConfig, Failure> {
        self.orchestrators.as_ref().map_or_else(|| self.group(), Ok)
    }

    /// The members of the ordered log in `epoch`, as [`Self::members`].
    pub fn log_members(&self, epoch: Epoch) -> Result<&GroupConfig, Failure> {
        self.granters(epoch).map_or_else(|| self.members(epoch), Ok)
    }

    /// The orchestrators of `epoch`, as [`Self::members`], where any are known.
    pub fn granters(&self, epoch: Epoch) -> Option<&GroupConfig> {
        let linked = self.chains[1].as_ref().and_then(|chain| chain.config(epoch).ok());
        linked.or(self.orchestrators.as_ref())
    }

    /// The members that may have signed a statement of `epoch`. Where nothing links to it, the newest, who did not.
    pub fn members(&self, epoch: Epoch) -> Result<&GroupConfig, Failure> {
        let group = self.group()?;
        Ok(self.chains[0].as_ref().and_then(|chain| chain.config(epoch).ok()).unwrap_or(group))
    }

    /// What is expected of a statement of the newest epoch.
    pub fn expected(&self, kind: Kind) -> Result<(&GroupConfig, Expected), Failure> {
        self.expect_in(kind, self.group()?.epoch)
    }

    /// What is expected of a statement of `epoch`.
    pub fn expect_in(&self, kind: Kind, epoch: Epoch) -> Result<(&GroupConfig, Expected), Failure> {
        let group = self.members(epoch)?;
        let failure = || Failure::usage("nothing says which VM is expected");
        let vm = self.vm.ok_or_else(|| failure().next("name it with --vm ID (64 hexadecimal digits)"))?;
        Ok((group, group.expected(vm, kind)))
    }

    /// Tells people what the result rests on.
    pub fn describe(&self, output: &Output) {
        if let Some(group) = &self.group {
            let quorum = group.rule().map_or(0, |rule| rule.quorum());
            let text = format!(
                "group {} ({}), {quorum} of {} verifiers are a quorum, at most {} may be Byzantine",
                group.name,
                short(group.id()),
                group.members.len(),
                group.f,
            );
            output.line(&wrap(&text, output.width(), 2));
        }
        if let Some(vm) = &self.vm {
            let name = self.spec.as_ref().map_or("", |spec| &spec.name);
            output.line(&format!("VM {name} ({})", short(vm)));
        }
        if !self.sources.is_empty() {
            let note = format!("expectations from {} beside the files", self.sources.join(", "));
            output.line(&output.tint(Tone::Faint, &note));
        }
    }
}

fn beside(paths: &[PathBuf]) -> PathBuf {
    match paths.first() {
        Some(path) if path.is_dir() => path.clone(),
        Some(path) => path.parent().map(Path::to_owned).unwrap_or_default(),
        None => PathBuf::new(),
    }
}

/// A configuration that cannot be understood is a wrong use of this command, not of a node.
fn read_group(path: &Path) -> Result<GroupChain, Failure> {
    let links = path.with_file_name("links");
    let links = Some(links.as_path()).filter(|links| links.is_dir());
    let files = GroupFiles { key: "group", links_key: "links", file: path, links, roots: None };
    files.read().map_err(|problem| Failure::new(exit::USAGE, "BadConfig", problem.text))
}

fn read_replicas(path: &Path) -> Result<GroupConfig, Failure> {
    group_file::read(path).map_err(|problem| Failure::new(exit::USAGE, "BadConfig", problem.text))
}

fn read_service(path: &Path) -> Result<ServiceSpec, Failure> {
    ServiceSpec::decoded(&read_bytes(path)?).map_err(|error| Failure::file(path, error))
}

fn read_spec(path: &Path) -> Result<VmSpec, Failure> {
    VmSpec::decoded(&read_bytes(path)?).map_err(|error| Failure::file(path, error))
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    Policy::parse(&read_bytes(path)?).map_err(|error| Failure::file(path, error))
}

fn policy_of(group: &GroupConfig) -> Result<Policy, Failure> {
    let text = Policy::text_for_group(group, None).map_err(|error| Failure::usage(error.to_string()))?;
    Policy::parse(text.as_bytes()).map_err(|error| Failure::usage(error.to_string()))
}

/// The VM named on the command line wins; a specification of another VM is of no use then.
fn expected_vm(
    arguments: &Arguments,
    spec: Option<VmSpec>,
) -> Result<(Option<VmId>, Option<VmSpec>), Failure> {
    let given: Option<VmId> = match &arguments.vm {
        Some(text) => Some(text.parse().map_err(|error| Failure::usage(format!("--vm: {error}")))?),
        None => None,
    };
    let vm = given.or_else(|| spec.as_ref().map(VmSpec::id));
    let spec = spec.filter(|spec| Some(spec.id()) == vm);
    Ok((vm, spec))
}

fn image_of(arguments: &Arguments, spec: Option<&VmSpec>) -> Result<Option<Image>, Failure> {
    if let Some(name) = &arguments.image {
        return Ok(Some(Image::admit(&image::load(name)?)?));
    }
    let built_in = spec.and_then(|spec| ALL.iter().find(|image| image.digest() == *spec.image.as_bytes()));
    Ok(built_in.map(|image| Image::admit(image.elf)).transpose()?)
}
