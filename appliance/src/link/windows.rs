//! When a remote is sent to: spans of the week, in the unit's own time zone.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt;
use std::str::FromStr;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// A span of some days. One that ends before it begins ends on the day after.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    days: [bool; 7],
    from: u16,
    to: u16,
}

/// All spans in which sending is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendWindows(Vec<Span>);

/// A minute of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Minute {
    day: usize,
    minute: u16,
}

impl fmt::Display for Minute {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = DAYS.get(self.day).copied().unwrap_or_default();
        write!(to, "{day} {:02}:{:02}", self.minute / 60, self.minute % 60)
    }
}

impl Minute {
    fn at(now_us: u64) -> Option<Self> {
        let now = Timestamp::from_microsecond(i64::try_from(now_us).ok()?).ok()?;
        let now = now.to_zoned(TimeZone::system());
        Some(Self {
            day: usize::try_from(now.weekday().to_monday_zero_offset()).ok()?,
            minute: u16::try_from(now.hour()).ok()? * 60 + u16::try_from(now.minute()).ok()?,
        })
    }

    fn next(self) -> Self {
        match self.minute + 1 {
            DAY_MINUTES => Self {
                day: (self.day + 1) % 7,
                minute: 0,
            },
            minute => Self { minute, ..self },
        }
    }
}

impl Span {
    fn holds(&self, now: Minute) -> bool {
        let on = |day: usize| self.days.get(day % 7).copied().unwrap_or(false);
        if self.from < self.to {
            return on(now.day) && (self.from..self.to).contains(&now.minute);
        }
        (on(now.day) && now.minute >= self.from) || (on(now.day + 6) && now.minute < self.to)
    }
}

impl SendWindows {
    /// Windows from their texts, as in `Mon-Fri 19:00-07:00`.
    ///
    /// # Errors
    /// What is wrong, and with which.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        texts
            .into_iter()
            .map(Span::from_str)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// `None`: sending is allowed. Otherwise a sentence that says when it goes on.
    #[must_use]
    pub fn closed(&self, now_us: u64) -> Option<String> {
        // A clock that tells no time keeps nothing back.
        let now = Minute::at(now_us)?;
        if self.is_open(now) {
            return None;
        }
        let week = std::iter::successors(Some(now), |minute| Some(minute.next()));
        let opens = week
            .take(7 * usize::from(DAY_MINUTES))
            .find(|minute| self.is_open(*minute));
        let when = opens.map_or_else(|| "never".to_owned(), |minute| minute.to_string());
        Some(format!(
            "outside of its send windows: the journal keeps everything, and sending goes on {when}"
        ))
    }

    fn is_open(&self, now: Minute) -> bool {
        self.0.iter().any(|span| span.holds(now))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{}' is no send window", text.escape_debug());
        let mut words = text.split_whitespace().peekable();
        let mut days = [true; 7];
        if let Some(word) =
            words.next_if(|word| word.starts_with(|letter: char| letter.is_ascii_alphabetic()))
        {
            days = parse_days(word).ok_or_else(wrong)?;
        }
        let (from, to) = match words.next() {
            None if text.trim().is_empty() => return Err(wrong()),
            None => (0, DAY_MINUTES),
            Some(word) => parse_times(word).ok_or_else(wrong)?,
        };
        match words.next() {
            None => Ok(Self { days, from, to }),
            Some(_) => Err(wrong()),
        }
    }
}

fn parse_days(text: &str) -> Option<[bool; 7]> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        loop {
            *days.get_mut(day)? = true;
            if day == last {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Some(days)
}

fn parse_times(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let minute = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let plain = digits(hours) && digits(minutes) && minutes.len() == 2;
        let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
        (plain && hours <= 24 && minutes < 60).then_some(hours * 60 + minutes)
    };
    let (from, to) = (minute(from)?, minute(to)?);
    (from < DAY_MINUTES && to <= DAY_MINUTES && from != to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(windows: &[&str], day: usize, time: &str) -> bool {
        let (hour, minute) = time.split_once(':').unwrap();
        let minute = hour.parse::<u16>().unwrap() * 60 + minute.parse::<u16>().unwrap();
        let windows = SendWindows::new(windows.iter().copied()).unwrap();
        windows.is_open(Minute { day, minute })
    }

    #[test]
    fn spans_hold_what_they_say_also_over_midnight_and_the_end_of_the_week() {
        let (mon, fri, sat, sun) = (0, 4, 5, 6);
        let nights = ["Mon-Fri 19:00-07:00", "Sat,Sun"];
        for (day, time, expected) in [
            (mon, "18:59", false),
            (mon, "19:00", true),
            (mon, "06:59", false),
            (fri, "07:00", false),
            (fri, "06:59", true),
            (fri, "23:59", true),
            (sat, "00:00", true),
            (sun, "23:59", true),
        ] {
            assert_eq!(open(&nights, day, time), expected, "{day} {time}");
        }
        for (day, time, expected) in [
            (sat, "21:59", false),
            (sat, "22:00", true),
            (sun, "22:00", true),
            (mon, "05:59", true),
            (mon, "06:00", false),
            (mon, "22:00", false),
        ] {
            assert_eq!(open(&["sat-SUN 22:00-6:00"], day, time), expected, "{day} {time}");
        }
        assert!(open(&["22:00-24:00"], mon, "23:59") && !open(&["22:00-24:00"], mon, "00:00"));
        assert!(open(&["Fri-Mon"], mon, "12:00") && !open(&["Fri-Mon"], 2, "12:00"));
        assert!(!open(&[], mon, "12:00"), "no window is no sending");
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            " ",
            "Mo",
            "Mon-",
            "Mon 7-8",
            "Mon 07:00-07:00",
            "07:00-25:00",
            "24:00-07:00",
            "07:60-08:00",
            "Mon 07:00-08:00 x",
            "07:00-08:00 Mon",
            "+7:00-08:00",
            "7:0-8:00",
            "99999:00-08:00",
            "Mon,,Tue",
            "ä",
        ] {
            let refused = SendWindows::new([text]).unwrap_err();
            assert!(refused.contains("is no send window"), "{text}: {refused}");
        }
    }

    #[test]
    fn the_operator_is_told_when_it_goes_on() {
        // 2026-11-22 12:00 UTC is a Sunday; the machine's own zone may be any.
        let now = 1_795_348_800_000_000;
        let here = Minute::at(now).unwrap();
        let later = (0..3).fold(here, |minute, _| minute.next());
        let text = later.to_string();
        let (day, time) = text.split_once(' ').unwrap();
        let end = (0..5).fold(later, |minute, _| minute.next()).to_string();
        let window = format!("{day} {time}-{}", end.split_once(' ').unwrap().1);
        let windows = SendWindows::new([window.as_str()]).unwrap();
        let told = windows.closed(now).unwrap();
        assert!(told.ends_with(&format!("goes on {text}")), "{told}");
        assert_eq!(windows.closed(now + 3 * 60_000_000), None);
        assert!(windows.closed(now + 8 * 60_000_000).is_some());
    }
}
