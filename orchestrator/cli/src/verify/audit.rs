//! The checks of `quorate verify` on bytes: no file, no clock, no output.

use std::path::Path;

use quorate_attest::id::VmId;

use super::super::exit;
use super::finding::Finding;
use super::trust::Trust;
use super::{judge as conclude, material, single};

/// One file under test, and what is expected of it. Nothing is looked for elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Case<'a> {
    /// Name of the file, whose extension says what it should be; without one its content does.
    pub name: &'a str,
    /// Its bytes.
    pub file: &'a [u8],
    /// Group file (TOML) of the group expected.
    pub group: Option<&'a [u8]>,
    /// VM expected.
    pub vm: Option<VmId>,
    /// C2SP policy.
    pub policy: Option<&'a [u8]>,
    /// Statement that a proof is about.
    pub statement: Option<&'a [u8]>,
    /// Oldest cosignature that counts, in POSIX seconds.
    pub not_before: Option<u64>,
}

/// What `quorate verify` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Exit code: 0 valid, 1 invalid, 2 not to be understood, 3 older than demanded.
    pub code: u8,
    /// The first rule that failed, by its stable name.
    pub rule_failed: Option<String>,
    /// The same for people; empty when the file is valid.
    pub detail: String,
}

/// Judges one file.
pub fn judge(case: &Case<'_>) -> Judgement {
    let finding = Trust::of(case)
        .and_then(|trust| single::check(&trust, &material::item(Path::new(case.name), case.file)));
    let finding = match finding {
        Ok(finding) => finding,
        Err(failure) => {
            return Judgement { code: failure.code, rule_failed: Some(failure.kind), detail: failure.text };
        }
    };
    let code = conclude(std::slice::from_ref(&finding)).code;
    let Finding { failed, stale, .. } = finding;
    let (rule_failed, detail) = failed.map_or((None, None), |(kind, detail)| (Some(kind), Some(detail)));
    let detail = detail.or(stale.filter(|_| code == exit::STALE)).unwrap_or_default();
    Judgement { code, rule_failed, detail }
}
