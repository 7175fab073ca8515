//! Whether this machine can run guests at all, asked before anything is started.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use super::exit;
use super::failure::Failure;

const DEVICE: &str = "/dev/kvm";

/// Fails with advice when `/dev/kvm` is missing or may not be used.
pub fn require() -> Result<(), Failure> {
    require_at(Path::new(DEVICE))
}

fn require_at(device: &Path) -> Result<(), Failure> {
    let Err(error) = OpenOptions::new().read(true).write(true).open(device) else { return Ok(()) };
    let name = device.display();
    let (text, next) = match error.kind() {
        ErrorKind::NotFound => (
            format!("{name} does not exist: this machine cannot run guests"),
            "switch on virtualisation (VT-x or AMD-V) in the firmware, or nested virtualisation if this is itself a VM; \
             then `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`. In a container: `--device /dev/kvm`",
        ),
        ErrorKind::PermissionDenied => (
            format!("{name} may not be used by this user"),
            "`sudo usermod -aG kvm $USER`, then log in again",
        ),
        _ => (format!("{name}: {error}"), "see `dmesg | grep -i kvm`"),
    };
    Err(Failure::new(exit::NOT_PERMITTED, "KvmUnavailable", text).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_device_is_named_with_a_way_to_get_it() {
        let failure = require_at(Path::new("/nowhere/kvm")).unwrap_err();
        assert_eq!((failure.code, failure.kind.as_str()), (77, "KvmUnavailable"));
        assert!(failure.text.contains("/nowhere/kvm"), "{failure:?}");
        assert!(failure.next.is_some_and(|next| next.contains("modprobe")));
    }

    #[test]
    fn device_that_is_there_is_enough() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(require_at(file.path()), Ok(()));
    }
}
