//! Blocks that are written and are there already are neither journaled nor sent, if the operator wants that.

use anyhow::{Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::proxy::Way;
use farside_tests::status::number;
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{Random, limits, promise};

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};

fn counter(two: &TwoUnits, name: &str) -> Result<u64> {
    let status = two.local.status()?;
    number(status.volume(VOLUME)?, &["counters", "since_start", name])
}

#[test]
fn a_disk_that_is_written_once_more_goes_over_the_line_once() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let file = two.local_directory.with_extension("toml");
        let before = std::fs::read_to_string(&file)?;
        let configure = |line: &str| -> Result<()> {
            std::fs::write(
                &file,
                before.replace("journal_size", &format!("{line}\njournal_size")),
            )?;
            two.local.process()?.signal(rustix::process::Signal::HUP)?;
            Ok(())
        };
        let image = world.file("image");
        let mut content = Random::new(world.seed()).bytes(16 << 20);
        std::fs::write(&image, &content)?;
        let uri = format!("nbd://{}/{VOLUME}", two.nbd);
        let copy = || {
            Tool::new("nbdcopy")
                .args(["--flush"])
                .path(&image)
                .args([&uri])
                .ok()
        };
        copy()?;
        configure("skip_unchanged = true")?;
        // A reload is done soon, and nothing shows when.
        wait_until("writes to be left out", limits::CATCH_UP, || {
            let (told, left_out) = (
                counter(&two, "blocks_journaled")?,
                counter(&two, "host_unchanged_bytes")?,
            );
            copy()?;
            let (told, left_out) = (
                counter(&two, "blocks_journaled")? - told,
                counter(&two, "host_unchanged_bytes")? - left_out,
            );
            Ok(Seen::when(told == 0 && left_out == 16 << 20, || {
                format!("{told} blocks journaled, {left_out} bytes left out")
            }))
        })?;
        two.local.wait_applied()?;
        // One block of it changes.
        content[5 << 20] ^= 1;
        std::fs::write(&image, &content)?;
        let (told, sent) = (
            counter(&two, "blocks_journaled")?,
            two.proxy.passed_bytes(Way::Out),
        );
        copy()?;
        two.expect_same_on_both_sides()?;
        ensure!(counter(&two, "blocks_journaled")? == told + 1);
        let sent = two.proxy.passed_bytes(Way::Out) - sent;
        ensure!(sent < 64 << 10, "{sent} bytes for one block");
        Ok(())
    });
}
