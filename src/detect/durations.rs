//! Durations in logarithmic buckets: a quantile with a relative error of at most 2 % from a fixed amount of memory.

/// Buckets: below 1 µs, then steps of 4 % up to about 130 days; what is longer counts in the last.
pub(super) const LANES: usize = 769;

const FIRST_MS: f64 = 0.001;
const STEP: f64 = 1.04;

/// Upper bounds of the lanes but the last, in milliseconds. Made by multiplication, not by a logarithm, so that every machine
/// sorts a duration into the same lane.
const BOUNDS_MS: [f64; LANES - 1] = {
    let mut bounds = [FIRST_MS; LANES - 1];
    let mut i = 1;
    while i < bounds.len() {
        bounds[i] = bounds[i - 1] * STEP;
        i += 1;
    }
    bounds
};

/// The lane of a duration; `None` for what is no duration.
pub(super) fn lane(duration_ms: f64) -> Option<usize> {
    (duration_ms.is_finite() && duration_ms >= 0.0).then(|| BOUNDS_MS.partition_point(|bound| *bound < duration_ms))
}

/// The value that stands for a lane, in seconds: within 2 % of everything in it.
fn seconds(lane: usize) -> f64 {
    match lane.checked_sub(1).and_then(|below| BOUNDS_MS.get(below)) {
        Some(low) => low * (2.0 * STEP / (1.0 + STEP)) / 1000.0,
        None => 0.0,
    }
}

/// The 95th percentile of `n` durations by nearest rank, in seconds; `None` without any.
pub(super) fn p95_seconds(lanes: &[u64], n: u64) -> Option<f64> {
    if n == 0 {
        return None;
    }
    let rank = (u128::from(n) * 95).div_ceil(100);
    let mut below = 0;
    lanes.iter().enumerate().find_map(|(lane, count)| {
        below += u128::from(*count);
        (*count > 0 && below >= rank).then(|| seconds(lane))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_percentile_and_nonsense_no_lane() {
        assert_eq!(p95_seconds(&[0; LANES], 0), None);
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(lane(bad), None);
        }
        assert_eq!(lane(0.0), Some(0));
        assert_eq!(lane(f64::MAX), Some(LANES - 1));
    }

    proptest! {
        #[test]
        fn is_within_two_percent_of_the_sorted_list(mut ms in prop::collection::vec(0.002f64..1e9, 1..300)) {
            let mut lanes = vec![0; LANES];
            for d in &ms {
                lanes[lane(*d).unwrap()] += 1;
            }
            ms.sort_by(f64::total_cmp);
            let exact = ms[(ms.len() * 95).div_ceil(100) - 1] / 1000.0;
            let got = p95_seconds(&lanes, ms.len() as u64).unwrap();
            prop_assert!((got - exact).abs() <= exact * 0.02, "{} for {}", got, exact);
        }
    }
}
