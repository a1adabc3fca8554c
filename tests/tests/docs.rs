//! The documentation keeps its word: its command lines parse, its links lead somewhere, its examples are accepted.
//!
//! Looks at README.md, CHANGELOG.md and docs/*.md as they are in the repository. Never here: what commands do.

use anyhow::{Context as _, Result, bail, ensure};
use farside_protocol::control::Status;
use farside_tests::{World, binary, promise};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Subcommands that have subcommands of their own.
const GROUPS: [&str; 6] = ["config", "history", "journal", "replica", "seed", "volume"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document with its text.
fn documents() -> Result<Vec<(PathBuf, String)>> {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for entry in std::fs::read_dir(root().join("docs"))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "md"));
    paths.sort();
    let read = |path: PathBuf| Ok((path.clone(), std::fs::read_to_string(&path)?));
    paths.into_iter().map(read).collect()
}

/// The fenced blocks of a document: language and lines.
fn blocks(text: &str) -> Vec<(String, Vec<&str>)> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, Vec<&str>)>);
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.trim().to_owned(), Vec::new())),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some((language, mut lines))) => {
                lines.push(line);
                open = Some((language, lines));
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The text outside of fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let outside = |line: &&str| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    text.lines().filter(outside).collect::<Vec<_>>().join("\n")
}

/// Command lines of `farside`: lines of blocks, and code in the prose, that begin with the program. Blocks of `text` are what
/// programs said.
fn command_lines(text: &str) -> Vec<String> {
    let blocks = blocks(text);
    let lines = blocks
        .iter()
        .filter(|(language, _)| language != "text")
        .flat_map(|(_, lines)| lines.iter().map(|line| line.trim().to_owned()));
    let prose = prose(text);
    let inline = prose.split('`').skip(1).step_by(2).map(str::to_owned);
    let program = |word: &str| word == "farside" || (word.ends_with("/farside") && !word.contains('='));
    lines
        .chain(inline)
        .filter(|line| line.split_once(' ').is_some_and(|(first, _)| program(first)))
        .map(|line| line.split(" #").next().unwrap_or_default().to_owned())
        .collect()
}

/// What `--help` of a subcommand knows: its flags.
fn flags(binary: &Path, subcommand: &[&str]) -> Result<BTreeSet<String>> {
    let done = Command::new(binary).args(subcommand).arg("--help").output()?;
    ensure!(
        done.status.success(),
        "there is no 'farside {}'",
        subcommand.join(" ")
    );
    let help = String::from_utf8(done.stdout)?;
    let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let words = help.split(|character| !letter(character));
    let mut flags: BTreeSet<String> = words
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect();
    flags.extend(["-h".to_owned(), "-V".to_owned(), "--version".to_owned()]);
    Ok(flags)
}

/// The subcommand of a command line, and its flags.
fn split(line: &str) -> (Vec<&str>, Vec<&str>) {
    let mut words = line.split_whitespace().skip(1).peekable();
    let (mut subcommand, mut given) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let open = subcommand.is_empty() || (subcommand.len() == 1 && GROUPS.contains(&subcommand[0]));
        if word.starts_with('-') {
            given.push(word.split('=').next().unwrap_or(word));
            if word == "--socket" && open {
                words.next();
            }
        } else if matches!(word, "&&" | "|" | "||" | ";" | ">" | "&") {
            break;
        } else if open {
            subcommand.push(word);
        }
    }
    (subcommand, given)
}

#[test]
fn every_documented_command_line_is_known_to_the_program() {
    promise(|_world: &World| {
        let binary = binary::farside()?;
        let (mut known, mut seen) = (BTreeMap::new(), 0);
        for (path, text) in documents()? {
            for line in command_lines(&text) {
                let place = || format!("{}: {line}", path.display());
                let (subcommand, given) = split(&line);
                let flags = match known.entry(subcommand.join(" ")) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(flags(binary, &subcommand).with_context(place)?),
                };
                for flag in given {
                    ensure!(flags.contains(flag), "{}: no {flag}", place());
                }
                seen += 1;
            }
        }
        ensure!(seen > 30, "only {seen} command lines were found");
        Ok(())
    });
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let text: String = heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter(kept)
        .collect();
    text.to_lowercase().replace(' ', "-")
}

fn check_link(document: &Path, link: &str) -> Result<()> {
    let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        document.to_owned()
    } else {
        document
            .parent()
            .context("a document lies in a directory")?
            .join(file)
    };
    ensure!(target.exists(), "{} does not exist", target.display());
    if wanted.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&target)?;
    let found = prose(&text)
        .lines()
        .any(|line| line.starts_with('#') && anchor(line) == wanted);
    ensure!(found, "{} has no heading for #{wanted}", target.display());
    Ok(())
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    promise(|_world| {
        let mut broken = Vec::new();
        for (path, text) in documents()? {
            let text = prose(&text);
            let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for link in links.filter(|link| !link.contains("://")) {
                if let Err(error) = check_link(&path, link) {
                    broken.push(format!("{}: {error:#}", path.display()));
                }
            }
        }
        if broken.is_empty() {
            return Ok(());
        }
        bail!("{}", broken.join("\n"))
    });
}

#[test]
fn documented_configurations_are_accepted() {
    promise(|world| {
        let mut seen = 0;
        for (path, text) in documents()? {
            for (_, lines) in blocks(&text).iter().filter(|(language, _)| language == "toml") {
                let file = world.file("documented.toml");
                std::fs::write(&file, lines.join("\n"))?;
                let mut check = Command::new(binary::farside()?);
                let done = check.args(["config", "check"]).arg(&file).output()?;
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                ensure!(done.status.success(), "{}: {said}", path.display());
                seen += 1;
            }
        }
        ensure!(seen >= 2, "only {seen} configurations were found");
        Ok(())
    });
}

#[test]
fn the_example_names_every_documented_setting() {
    promise(|_| {
        let mut example = Command::new(binary::farside()?);
        let example = example.args(["config", "example"]).output()?;
        let example = String::from_utf8(example.stdout)?;
        let guide = std::fs::read_to_string(root().join("docs/user-guide.md"))?;
        let rows = guide
            .lines()
            .skip_while(|line| !line.starts_with("| `unit.name` |"));
        let mut settings = 0;
        for row in rows.take_while(|line| line.starts_with('|')) {
            let keys = row.split('|').nth(1).unwrap_or_default().split(',');
            for key in keys.map(|key| key.trim().trim_matches('`')) {
                let name = key.rsplit('.').next().unwrap_or_default();
                let is_named = |line: &str| line.trim_start_matches('#').starts_with(&format!("{name} = "));
                ensure!(example.lines().any(is_named), "the example has no {key}");
                settings += 1;
            }
        }
        ensure!(settings > 50, "only {settings} settings were found");
        Ok(())
    });
}

#[test]
fn the_documented_status_has_exactly_the_fields_of_the_program() {
    promise(|_world| {
        let guide = std::fs::read_to_string(root().join("docs/user-guide.md"))?;
        let blocks = blocks(&guide);
        let example = blocks.iter().find(|(language, _)| language == "json");
        let text = example
            .context("the user guide has no JSON example")?
            .1
            .join("\n");
        let documented: serde_json::Value = serde_json::from_str(&text)?;
        let status: Status = serde_json::from_value(documented.clone())?;
        ensure!(
            serde_json::to_value(status)? == documented,
            "the example has fields that the program does not know"
        );
        Ok(())
    });
}
