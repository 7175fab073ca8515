//! systemd units for servers, one a node, as operations.md describes.

use std::fs;
use std::path::PathBuf;

use crate::cluster::{Entry, Folder, NodeRole, Programs};
use crate::failure::Failure;

/// Writes `DIR/systemd/quorate-NAME.service` for every node; returns the paths.
pub fn write(folder: &Folder, programs: &Programs) -> Result<Vec<PathBuf>, Failure> {
    let units = folder.root().join("systemd");
    fs::create_dir_all(&units).map_err(|error| Failure::file(&units, error))?;
    let write = |entry: &Entry| {
        let path = units.join(format!("quorate-{}.service", entry.name));
        fs::write(&path, unit(entry, programs)).map_err(|error| Failure::file(&path, error))?;
        Ok(path)
    };
    folder.index.nodes.iter().map(write).collect()
}

fn unit(entry: &Entry, programs: &Programs) -> String {
    let Entry { name, role, .. } = entry;
    let program = programs.of(*role).file_name().unwrap_or_default().to_string_lossy();
    // Only hosts enter guests.
    let devices = match role {
        NodeRole::Host => "DevicePolicy=closed\nDeviceAllow=/dev/kvm rw\n",
        NodeRole::Verifier => {
            "# A verifier in REPLAYED mode executes guests.\nDevicePolicy=closed\nDeviceAllow=/dev/kvm rw\n"
        }
        NodeRole::Gateway => {
            "PrivateDevices=yes\n# Where the NSS module looks for its socket.\nRuntimeDirectory=quorate\n"
        }
        NodeRole::Signer | NodeRole::Orchestrator => "PrivateDevices=yes\n",
    };
    let ready = match role {
        NodeRole::Signer | NodeRole::Orchestrator | NodeRole::Verifier | NodeRole::Gateway => "notify",
        NodeRole::Host => "exec",
    };
    format!(
        "# Put the configuration, the files that it names and this node's keys (no others) into /etc/quorate/{name},\n\
         # owned by the user quorate and readable by nobody else. Make data_dir /var/lib/quorate/{name}.\n\
         # Once before the first start, except for hosts and gateways: {program} --config /etc/quorate/{name}/{name}.toml init\n\
         [Unit]\n\
         Description=Quorate {role} {name}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type={ready}\n\
         ExecStart=/usr/local/bin/{program} --config /etc/quorate/{name}/{name}.toml\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         # 70: it must not sign any more. 78: its configuration. Neither gets better by starting again.\n\
         RestartPreventExitStatus=70 78\n\
         User=quorate\n\
         StateDirectory=quorate/{name}\n\
         LimitNOFILE=65536\n\
         NoNewPrivileges=yes\n\
         ProtectSystem=strict\n\
         ProtectHome=yes\n\
         PrivateTmp=yes\n\
         {devices}\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        role = role.name(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Plan;

    #[test]
    fn units_never_restart_a_node_that_must_not_sign() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::new(folder.path(), Programs::in_folder("/usr/local/bin".as_ref()));
        let folder = Folder::create(&plan).unwrap();
        let units = write(&folder, &plan.programs).unwrap();
        assert_eq!(units.len(), 4 + 4 + 2);
        for path in units {
            let text = fs::read_to_string(&path).unwrap();
            for line in ["RestartPreventExitStatus=70 78", "NoNewPrivileges=yes", "ProtectSystem=strict"] {
                assert!(text.lines().any(|found| found == line), "{}: {line}", path.display());
            }
            assert_eq!(text.contains("/dev/kvm"), !path.to_string_lossy().contains("orchestrator"));
        }
    }
}
