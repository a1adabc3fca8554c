//! How fast the journal fills and is confirmed, and what that leads to.

use super::status::timestamp;
use crate::unit::limits::{SAMPLE_INTERVAL, TREND_SECONDS};
use crate::volume::Volume;
use farside_protocol::control::Forecast;
use farside_protocol::journal::ConsumerState;
use farside_storage::limits::HIGH_WATER_PERCENT;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Bytes behind that are no backlog but what is on its way.
const UNDER_WAY_BYTES: u64 = 1 << 20;

/// A rate of growth, the newest seconds counting most.
#[derive(Debug, Clone, Copy, Default)]
struct Trend {
    last: Option<(Duration, u64)>,
    sum: f64,
    weight: f64,
}

impl Trend {
    fn sample(&mut self, at: Duration, value: u64) {
        if let Some((then, before)) = self.last {
            let seconds = at.saturating_sub(then).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            let share = 1.0 - (-seconds / TREND_SECONDS).exp();
            // Precise enough for a forecast.
            let rate = value.saturating_sub(before) as f64 / seconds;
            self.sum += (rate - self.sum) * share;
            self.weight += (1.0 - self.weight) * share;
        }
        self.last = Some((at, value));
    }

    fn per_second(&self) -> f64 {
        if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            0.0
        }
    }
}

/// The rates of one remote.
#[derive(Debug, Default)]
pub(super) struct Trends {
    /// Written to the journal, and confirmed by the remote.
    rates: Mutex<(Trend, Trend)>,
}

/// Where a remote stands, in bytes of the journal.
#[derive(Debug, Clone, Copy)]
struct Place {
    behind: u64,
    /// The remote is let go when it is so much behind.
    limit: u64,
    connected: bool,
}

impl Trends {
    /// Takes note of the positions every second.
    pub(super) async fn watch(self: Arc<Self>, volume: Arc<Volume>, remote: String) {
        let mut tick = tokio::time::interval(SAMPLE_INTERVAL);
        loop {
            tick.tick().await;
            let store = volume.store();
            let Some(view) = store.consumer(&remote) else {
                return;
            };
            let at = store.clock().monotonic();
            let mut rates = self.rates.lock();
            rates.0.sample(at, store.points().journaled.address);
            if view.state == ConsumerState::Attached {
                rates.1.sample(at, view.acked.address);
            } else {
                // Where a copy begins it jumps.
                rates.1 = Trend::default();
            }
        }
    }

    /// What they lead to, for a remote that follows the journal.
    pub(super) fn forecast(&self, volume: &Volume, remote: &str, connected: bool) -> Option<Forecast> {
        let store = volume.store();
        let view = store
            .consumer(remote)
            .filter(|view| view.state == ConsumerState::Attached)?;
        let (_, ring) = store.ring_use();
        let place = Place {
            behind: store
                .points()
                .journaled
                .address
                .saturating_sub(view.acked.address),
            limit: ring / 100 * HIGH_WATER_PERCENT,
            connected,
        };
        let (written, confirmed) = *self.rates.lock();
        let mut forecast = foretell(place, written.per_second(), confirmed.per_second());
        let at_us = forecast.full_seconds.and_then(|seconds| {
            store
                .clock()
                .wall_us()
                .checked_add(seconds.checked_mul(1_000_000)?)
        });
        forecast.full_at = at_us.and_then(timestamp);
        Some(forecast)
    }
}

fn foretell(place: Place, written: f64, confirmed: f64) -> Forecast {
    let confirmed = if place.connected { confirmed } else { 0.0 };
    let free = place.limit.saturating_sub(place.behind);
    // A rate below one byte a second is none, and less than a twentieth is noise.
    let in_seconds = |bytes: u64, rate: f64| (rate >= 1.0).then(|| whole(bytes as f64 / rate));
    let gains = confirmed - written;
    let (drains, fills) = if place.behind <= UNDER_WAY_BYTES {
        (None, None)
    } else if gains > written / 20.0 {
        (in_seconds(place.behind, gains), None)
    } else if -gains > written / 20.0 {
        (None, in_seconds(free, -gains))
    } else {
        (None, None)
    };
    Forecast {
        write_bytes_per_second: whole(written),
        confirm_bytes_per_second: whole(confirmed),
        covers_seconds: in_seconds(free, written),
        drains_seconds: drains,
        full_seconds: fills,
        full_at: None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest number there is"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_steady_rate_is_known_at_once_and_a_new_one_after_a_while() {
        let mut trend = Trend::default();
        assert!(trend.per_second().abs() < 1e-9);
        for second in 0..10 {
            trend.sample(seconds(second), second * 1000);
        }
        assert!((trend.per_second() - 1000.0).abs() < 0.01, "{trend:?}");
        for second in 10..1200 {
            trend.sample(seconds(second), 9000 + (second - 9) * 50);
        }
        assert!((trend.per_second() - 50.0).abs() < 1.0, "{trend:?}");
    }

    #[test]
    fn a_forecast_says_what_comes() {
        let mib = |count: u64| count << 20;
        let place = |behind, connected| Place {
            behind,
            limit: mib(900),
            connected,
        };
        let rate = (1 << 20) as f64;
        let follows = foretell(place(mib(1), true), rate, rate * 0.98);
        assert_eq!(follows.covers_seconds, Some(899));
        assert_eq!((follows.drains_seconds, follows.full_seconds), (None, None));
        let catches_up = foretell(place(mib(300), true), rate, 4.0 * rate);
        assert_eq!(
            (catches_up.drains_seconds, catches_up.full_seconds),
            (Some(100), None)
        );
        let falls_behind = foretell(place(mib(300), true), 4.0 * rate, rate);
        assert_eq!(
            (falls_behind.drains_seconds, falls_behind.full_seconds),
            (None, Some(200))
        );
        let away = foretell(place(mib(300), false), 2.0 * rate, 9.0 * rate);
        assert_eq!((away.covers_seconds, away.full_seconds), (Some(300), Some(300)));
        assert_eq!(away.confirm_bytes_per_second, 0);
        let idle = foretell(place(0, true), 0.0, 0.0);
        assert_eq!(idle, Forecast::default());
    }
}
