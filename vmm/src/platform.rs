//! The platform class: on which processors an execution is known to be the same.
//!
//! CPUID faults in a guest, so it cannot see the processor it runs on; but results of approximate instructions
//! (`rsqrtps`), the moment a state component becomes initial, and the instruction set itself may differ by model.
//! A statement therefore names the class of the machine that made it, and a verifier of another class refuses with
//! `PlatformMismatch` instead of reporting a divergence that is nobody's fault.
//!
//! The class is BLAKE3 of a text, `platform-v1` and one `name=value` a line: vendor, family and model of the
//! processor, its XSAVE components, and how KVM runs the guest. Stepping and microcode are left out on purpose.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fmt::Write as _;
use std::sync::LazyLock;

/// Finds the class of this machine.
pub struct PlatformClass;

impl PlatformClass {
    /// The class and the text it is the digest of. Found once in a process: CPUID traps in a virtual machine, and every
    /// checkpoint names the class while its guest stands still.
    pub fn detect() -> (quorate_attest::id::PlatformClass, String) {
        static FOUND: LazyLock<(quorate_attest::id::PlatformClass, String)> = LazyLock::new(|| {
            let text = describe(&vendor(), family_and_model(__cpuid(1).eax), &components(), flavour());
            (digest(&text), text)
        });
        FOUND.clone()
    }
}

fn digest(text: &str) -> quorate_attest::id::PlatformClass {
    quorate_attest::id::PlatformClass::from_bytes(*blake3::hash(text.as_bytes()).as_bytes())
}

fn describe(vendor: &str, (family, model): (u32, u32), components: &str, flavour: &str) -> String {
    format!(
        "platform-v1\nvendor={vendor}\nfamily={family}\nmodel={model}\nxsave={components}\nkvm={flavour}\n"
    )
}

fn vendor() -> String {
    let leaf = __cpuid(0);
    let bytes = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Display family and model of CPUID leaf 1 (Intel SDM volume 2, CPUID).
fn family_and_model(signature: u32) -> (u32, u32) {
    let (base_family, base_model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    let family = base_family + if base_family == 0xf { signature >> 20 & 0xff } else { 0 };
    let extended = matches!(base_family, 0x6 | 0xf);
    let model = base_model | if extended { (signature >> 16 & 0xf) << 4 } else { 0 };
    (family, model)
}

/// The XSAVE components a guest's state can have, as `number:bytes`.
fn components() -> String {
    let mut text = String::new();
    for number in [2, 5, 6, 7, 9] {
        let bytes = __cpuid_count(0xd, number).eax;
        if bytes != 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{number}:{bytes}", if text.is_empty() { "" } else { "," });
        }
    }
    text
}

/// How KVM runs a guest here: with VMX, with SVM, or without either (PVM).
fn flavour() -> &'static str {
    let module = |name: &str| std::path::Path::new("/sys/module").join(name).exists();
    match (module("kvm_pvm"), module("kvm_amd"), module("kvm_intel")) {
        (true, _, _) => "pvm",
        (_, true, _) => "svm",
        (_, _, true) => "vmx",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_stable_and_named() {
        let (class, text) = PlatformClass::detect();
        assert_eq!((class, text.clone()), PlatformClass::detect());
        assert!(text.starts_with("platform-v1\nvendor="), "{text}");
    }

    #[test]
    fn every_line_changes_the_class() {
        let base = describe("GenuineIntel", (6, 143), "2:256", "pvm");
        let others = [
            describe("AuthenticAMD", (6, 143), "2:256", "pvm"),
            describe("GenuineIntel", (7, 143), "2:256", "pvm"),
            describe("GenuineIntel", (6, 142), "2:256", "pvm"),
            describe("GenuineIntel", (6, 143), "2:256,9:8", "pvm"),
            describe("GenuineIntel", (6, 143), "2:256", "vmx"),
        ];
        for other in others {
            assert_ne!(digest(&other), digest(&base), "{other}");
        }
    }

    #[test]
    fn family_and_model_follow_the_manual() {
        assert_eq!(family_and_model(0x000806f8), (6, 143));
        assert_eq!(family_and_model(0x00a20f12), (25, 33));
    }
}
