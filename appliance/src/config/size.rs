//! Sizes as people write them: `512M`, `1.5T`, `4096`. Units are binary, one letter, case does not matter.

/// Reads a size in bytes.
///
/// # Errors
/// A sentence on what is wrong and how to write it, without the name of the setting.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "'{}' is not a size: write a number and K, M, G, T or P, as in 512M or 1.5T",
            text.escape_debug()
        )
    };
    let trimmed = text.trim();
    let (number, shift) = split_unit(trimmed);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !digits(whole)
        || !digits(fraction)
        || (number.contains('.') && fraction.is_empty())
    {
        return Err(refused());
    }
    let too_large = || format!("'{}' is too large", text.escape_debug());
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    let extra = fraction_bytes(fraction, shift)
        .ok_or_else(|| format!("'{}' is not a whole number of bytes", text.escape_debug()))?;
    bytes.checked_add(extra).ok_or_else(too_large)
}

/// Takes `KiB`, `KB` and `K` off the end alike; all mean 1024.
fn split_unit(text: &str) -> (&str, u32) {
    let lower = text.to_ascii_lowercase();
    let stem = lower
        .strip_suffix("ib")
        .or_else(|| lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let shift = match stem.bytes().last() {
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        Some(b't') => 40,
        Some(b'p') => 50,
        _ => 0,
    };
    // Plain bytes may carry a `B`, but `iB` needs a letter before it.
    let end = if shift > 0 {
        stem.len() - 1
    } else if lower.ends_with("ib") {
        lower.len()
    } else {
        stem.len()
    };
    (text.get(..end).unwrap_or(text), shift)
}

/// The bytes that decimals stand for; `None` if they are no whole number.
fn fraction_bytes(fraction: &str, shift: u32) -> Option<u64> {
    let digits = fraction.trim_end_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let scale = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let scaled = digits.parse::<u128>().ok()?.checked_mul(1 << shift)?;
    if scaled.is_multiple_of(scale) {
        u64::try_from(scaled / scale).ok()
    } else {
        None
    }
}

/// Writes a size so that [`parse_size`] reads it back: `512M`, `1537`.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(50, 'P'), (40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::{format_size, parse_size};

    #[test]
    fn sizes_people_write_are_understood() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("512B", 512),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("512MiB", 512 << 20),
            ("512mb", 512 << 20),
            ("1.5T", 3 << 39),
            ("0.5K", 512),
            ("1.50G", 3 << 29),
            (" 1G ", 1 << 30),
            ("1P", 1 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_never_guessed() {
        for text in [
            "", "G", "-1G", "1X", "1GG", "1 000", "1e9", "1.", ".5G", "1.2.3G", "0x10", "1iB", "1,5G", "∞",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["99999999999999999999", "999999P", "18446744073709551615K"] {
            assert!(
                parse_size(text).is_err_and(|why| why.contains("too large")),
                "{text}"
            );
        }
        assert!(parse_size("0.0001K").is_err_and(|why| why.contains("whole number")));
    }

    #[test]
    fn written_sizes_read_back() {
        for bytes in [0, 1, 512, 1024, 1537, 1 << 20, 3 << 39, 1 << 50, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
