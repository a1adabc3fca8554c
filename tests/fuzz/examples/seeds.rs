//! Writes the seeds of every target into a directory of its name below the one given: the first corpus of `make fuzz`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let Some(below) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("name the directory for the seeds"));
    };
    for target in farside_fuzz::TARGETS {
        let directory = PathBuf::from(&below).join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
