//! The few words and figures that console and command line must say alike.

use super::Lag;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size for people: binary units, three significant digits (`1.50 GiB`, `512 B`).
pub fn human_bytes(bytes: u64) -> String {
    let mut scaled = None;
    // Enough precision for three digits; the value is only shown.
    let mut value = bytes as f64;
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        scaled = Some(unit);
    }
    match scaled {
        None => format!("{bytes} B"),
        Some(unit) if value < 10.0 => format!("{value:.2} {unit}"),
        Some(unit) if value < 100.0 => format!("{value:.1} {unit}"),
        Some(unit) => format!("{value:.0} {unit}"),
    }
}

/// A count and what is counted, which takes an `s` in the plural (`1 connection`, `2 connections`).
pub fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// What is shown of damage between a unit and a remote.
#[must_use]
pub fn damage_text(times: u64) -> String {
    format!(
        "refused {} as damaged, and sent again: look at the line, and at the memory and disks of the remote",
        counted(times, "time")
    )
}

/// What a copy of so many bytes means for the last consistent state of a remote whose history has this room. `None`: that
/// state stays viewable throughout.
pub fn copy_risk(copy_bytes: u64, room_bytes: u64) -> Option<String> {
    if copy_bytes <= room_bytes {
        return None;
    }
    if room_bytes == 0 {
        return Some(
            "the remote keeps no history, so it has no consistent state until the copy is complete"
                .to_owned(),
        );
    }
    Some(format!(
        "the remote's history has room for {} of the {} to be copied, so its last consistent state may not stay viewable \
         until the copy is complete",
        human_bytes(room_bytes),
        human_bytes(copy_bytes)
    ))
}

/// How likely it is that a remote is behind, in words.
///
/// `connected` is whether the link is up, so that `lag` is known and not a memory; `clean_start` is whether
/// the last shutdown of this unit was clean, in which case it had drained to every remote that answered.
pub fn likely_behind(connected: bool, clean_start: bool, lag: &Lag) -> String {
    match (connected, lag.records) {
        (true, 0) => "no".to_owned(),
        (true, records) => format!("yes, by {records} records ({:.1} s)", lag.seconds),
        (false, 0) if clean_start => {
            "unlikely: not connected, nothing written since the last contact".to_owned()
        }
        (false, 0) => "possible: not connected, and the last shutdown was not clean".to_owned(),
        (false, records) => {
            format!(
                "certain: not connected, {records} records ({}) wait here",
                human_bytes(lag.bytes)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_the_history_cannot_hold_is_told_of() {
        assert_eq!(copy_risk(5, 5), None);
        assert!(copy_risk(5, 0).unwrap().contains("keeps no history"));
        assert!(
            copy_risk(2 << 30, 1 << 30)
                .unwrap()
                .contains("1.00 GiB of the 2.00 GiB")
        );
    }

    #[test]
    fn sizes_read_the_way_people_write_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 * 1024 * 1024, "1.50 GiB"),
            (512 << 20, "512 MiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn one_is_not_many() {
        let texts = [0, 1, 2].map(|count| counted(count, "connection"));
        assert_eq!(texts, ["0 connections", "1 connection", "2 connections"]);
    }

    #[test]
    fn a_remote_out_of_contact_is_never_called_up_to_date() {
        let none = Lag::default();
        let some = Lag {
            records: 7,
            blocks: 9,
            bytes: 9 * 4096,
            seconds: 1.25,
        };
        assert_eq!(likely_behind(true, false, &none), "no");
        assert_eq!(likely_behind(true, true, &some), "yes, by 7 records (1.2 s)");
        assert!(likely_behind(false, true, &none).starts_with("unlikely"));
        assert!(likely_behind(false, false, &none).starts_with("possible"));
        assert!(likely_behind(false, false, &some).starts_with("certain"));
    }
}
