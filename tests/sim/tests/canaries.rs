//! The canaries stay alive: each planted bug still applies to the product, says what it breaks, and is in the
//! documentation. That the simulator finds them takes longer: `make canaries`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// There are never fewer.
const ENOUGH: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Name and file of each.
fn canaries() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(root().join("tests/canaries")).expect("the directory of canaries is read");
    let paths = entries.map(|entry| entry.expect("an entry is read").path());
    let mut all: Vec<_> = paths
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".patch")?.to_owned();
            Some((name, path))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_canary_applies_to_the_product() {
    let all = canaries();
    assert!(all.len() >= ENOUGH, "only {} canaries", all.len());
    let mut problems = Vec::new();
    for (name, path) in &all {
        let done = Command::new("patch")
            .args(["--dry-run", "-p1", "--batch", "--forward", "--fuzz=0", "-d"])
            .arg(root())
            .stdin(Stdio::from(File::open(path).expect("a patch is opened")))
            .output()
            .expect("the program patch runs; install it with make deps");
        if !done.status.success() {
            problems.push(format!(
                "{name} does not apply any more, plant it anew:\n{}",
                String::from_utf8_lossy(&done.stdout)
            ));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_canary_says_what_it_breaks_and_touches_the_product_only() {
    for (name, path) in canaries() {
        let text = fs::read_to_string(path).expect("a patch is text");
        let promise = text.strip_prefix("Breaks: ").and_then(|rest| rest.lines().next());
        assert!(
            promise.is_some_and(|promise| promise.len() > 10),
            "{name}: the first line names the promise"
        );
        for file in text.lines().filter_map(|line| line.strip_prefix("+++ b/")) {
            let product = ["storage/src/", "appliance/src/", "remote/src/", "protocol/src/"];
            assert!(
                product.iter().any(|part| file.starts_with(part)),
                "{name} changes {file}"
            );
        }
    }
}

#[test]
fn the_documentation_lists_the_canaries_that_there_are() {
    let text = fs::read_to_string(root().join("docs/testing.md")).expect("docs/testing.md is read");
    let section = text
        .split("\n## Canaries\n")
        .nth(1)
        .expect("it has a section 'Canaries'");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<String> = rows.map(str::to_owned).collect();
    let there: BTreeSet<String> = canaries().into_iter().map(|(name, _)| name).collect();
    let odd: Vec<_> = listed.symmetric_difference(&there).collect();
    assert!(odd.is_empty(), "in one of the two only: {odd:?}");
}
