//! No path costs more instructions or allocations than the figures in `counts.toml`, give or take what is tolerated.

use farside_tests::skip;
use std::path::Path;
use std::process::Command;

/// Counts are of the program as it is shipped, so it is built like that here.
fn build(root: &Path) {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet", "-p", "farside-cost"])
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "farside-cost is built");
}

#[test]
fn no_path_costs_more_than_it_did() {
    if !cfg!(target_arch = "x86_64") {
        skip::record(
            "no_path_costs_more_than_it_did",
            "there are figures for x86-64 only",
        );
        return;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        let reason = "valgrind is missing; install it (Debian: apt-get install valgrind)";
        skip::record("no_path_costs_more_than_it_did", reason);
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    build(&root);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let output = Command::new(target.join("release/farside-cost"))
        .arg("measure")
        .output()
        .expect("farside-cost runs");
    let (table, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "\n{table}\n{log}");
}
