//! The tutorial shows the service that is in the tree, all of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const TUTORIAL: &str = include_str!("../../docs/tutorial-service.md");

const SERVICE: &str = "guest-images/services/counter";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Language, file named above, text.
fn blocks() -> Vec<(String, Option<String>, String)> {
    let mut blocks = Vec::new();
    let (mut above, mut open) = ("", None);
    for line in TUTORIAL.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                let file = above.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                open = Some((language.to_owned(), file.map(str::to_owned), String::new()));
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some((language, file, text))) => open = Some((language, file, text + line + "\n")),
            (None, None) => {}
        }
        above = line;
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

#[test]
fn every_snippet_is_a_part_of_the_file_it_names() {
    let mut count = 0;
    for (language, file, text) in blocks().into_iter().filter(|(language, ..)| language != "sh") {
        let file = file.unwrap_or_else(|| panic!("a block of {language} names no file:\n{text}"));
        let source = fs::read_to_string(workspace().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(&text), "{file} does not contain:\n{text}");
        count += 1;
    }
    assert!(count > 8, "{count} snippets");
}

#[test]
fn who_copies_every_snippet_of_the_crate_has_the_crate() {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, file, text) in blocks() {
        files.entry(file.unwrap_or_default()).or_default().push(text);
    }
    for name in ["Cargo.toml", "src/lib.rs", "src/main.rs"] {
        let file = format!("{SERVICE}/{name}");
        let source = fs::read_to_string(workspace().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(files.get(&file).map(|parts| parts.join("\n")), Some(source), "{file}");
    }
}

#[test]
fn every_command_tests_a_package_of_the_workspace() {
    let members = fs::read_to_string(workspace().join("Cargo.toml")).expect("the workspace's manifest");
    let commands: Vec<_> = blocks().into_iter().filter(|(language, ..)| language == "sh").collect();
    assert!(!commands.is_empty());
    for line in commands.iter().flat_map(|(.., text)| text.lines()) {
        let rest = line.strip_prefix("cargo test --release -p ").unwrap_or_else(|| panic!("{line}"));
        let package = rest.split(' ').next().unwrap_or_default();
        assert!(members.contains(&format!("\n{package} = ")), "{line}");
    }
}
