//! The event's own time (contract §3, `timestamp`).

use jiff::{Timestamp, Zoned, civil::DateTime, tz::TimeZone};

use super::TimestampFault;

/// Further from arrival than this, the event's own time is not used.
pub const SKEW_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The event's time in Unix ms, if it can be read and is within 24 h of arrival.
pub(super) fn event_time(text: &str, arrival_ms: u64, timezone: &TimeZone) -> Result<u64, TimestampFault> {
    let ms = parse_ms(text, timezone).ok_or(TimestampFault::Unreadable)?;
    match u64::try_from(ms) {
        Ok(ms) if ms.abs_diff(arrival_ms) <= SKEW_MS_MAX => Ok(ms),
        _ => Err(TimestampFault::Skewed),
    }
}

/// A time in Unix ms (rounded down) from any form that contract §3 accepts: RFC 3339; ISO 8601 without zone, read in
/// `timezone` (of a local time that exists twice the first, of one that does not exist the one as far behind the gap);
/// a number of s, ms, µs or ns, told apart by size. `None` where it is none of these.
pub fn parse_ms(text: &str, timezone: &TimeZone) -> Option<i64> {
    plain_ms(text.as_bytes(), timezone).or_else(|| parse_any(text, timezone))
}

fn parse_any(text: &str, timezone: &TimeZone) -> Option<i64> {
    let text = text.trim();
    if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))
        && let Some(ms) = parse_unix(text)
    {
        return Some(ms);
    }
    // A lone year or compact date is a number by now, so what is left begins `YYYY-`.
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(floor_ms(timestamp));
    }
    // A zone in brackets decides; read without it, the time would be taken for one of the source's zone.
    if text.contains('[') {
        return Some(floor_ms(text.parse::<Zoned>().ok()?.timestamp()));
    }
    let local: DateTime = text.parse().ok()?;
    Some(floor_ms(timezone.to_ambiguous_timestamp(local).compatible().ok()?))
}

/// The forms that nearly every event has, read without a calendar: whole numbers, and `YYYY-MM-DDThh:mm:ss` with or without a
/// fraction, with `Z`, an offset `±hh:mm` or, where the source's zone is UTC, nothing. `None` where it is anything else.
fn plain_ms(text: &[u8], timezone: &TimeZone) -> Option<i64> {
    if text.len() <= 18 && text.iter().all(u8::is_ascii_digit) {
        let whole = number(text)?;
        return match whole {
            _ if text.is_empty() => None,
            0..=99_999_999_999 => Some(whole * 1000),
            100_000_000_000..=99_999_999_999_999 => Some(whole),
            100_000_000_000_000..=99_999_999_999_999_999 => Some(whole / 1000),
            _ => Some(whole / 1_000_000),
        };
    }
    let (date_time, rest) = text.split_at_checked(19)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b' ', h0, h1, b':', n0, n1, b':', s0, s1] = *date_time else {
        return None;
    };
    let (year, month, day) = (number(&[y0, y1, y2, y3])?, number(&[m0, m1])?, number(&[d0, d1])?);
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[n0, n1])?, number(&[s0, s1])?);
    if !(1970..9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let (fraction_ms, zone) = match rest.split_first() {
        Some((b'.', rest)) => {
            let len = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=9).contains(&len) {
                return None;
            }
            let (digits, zone) = rest.split_at_checked(len)?;
            let ms = number(digits.get(..3).unwrap_or(digits))?;
            (ms * [100, 10, 1].get(len.min(3) - 1)?, zone)
        }
        _ => (0, rest),
    };
    let offset_minutes = match *zone {
        [b'Z'] => 0,
        [] if *timezone == TimeZone::UTC => 0,
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (number(&[h0, h1])?, number(&[m0, m1])?);
            // `-00:00` says that the offset is not known, which is for others to make something of.
            if hours > 23 || minutes > 59 || (sign == b'-' && hours == 0 && minutes == 0) {
                return None;
            }
            (hours * 60 + minutes) * if sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    // Years begin in March here, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second) * 1000 + fraction_ms)
}

/// Nothing but digits, at most 18.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |n, digit| digit.is_ascii_digit().then(|| n * 10 + i64::from(digit - b'0')))
}

fn floor_ms(timestamp: Timestamp) -> i64 {
    timestamp.as_nanosecond().div_euclid(1_000_000) as i64
}

/// Seconds up to the year 5138, then ms, µs, ns, each a thousand times as large.
fn parse_unix(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return parse_exponent(text);
    }
    let whole: i128 = whole.parse().ok()?;
    // Nine digits behind the point say all that a millisecond can need.
    let mut billionths = 0i128;
    for i in 0..9 {
        billionths = billionths * 10 + i128::from(fraction.as_bytes().get(i).map_or(0, |digit| digit - b'0'));
    }
    let value = whole.checked_mul(1_000_000_000)?.checked_add(billionths)?;
    scale(if negative { -value } else { value })
}

/// `1.7e9`, as some JSON writers put large numbers.
fn parse_exponent(text: &str) -> Option<i64> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && value.abs() < 1e20).then(|| scale((value * 1e9) as i128)).flatten()
}

/// From billionths of an unknown unit to ms.
fn scale(billionths: i128) -> Option<i64> {
    const UNIT: i128 = 1_000_000_000;
    let ms = match billionths.unsigned_abs() / UNIT as u128 {
        0..=99_999_999_999 => billionths.div_euclid(UNIT / 1000),
        100_000_000_000..=99_999_999_999_999 => billionths.div_euclid(UNIT),
        100_000_000_000_000..=99_999_999_999_999_999 => billionths.div_euclid(UNIT * 1000),
        100_000_000_000_000_000..=99_999_999_999_999_999_999 => billionths.div_euclid(UNIT * 1_000_000),
        _ => return None,
    };
    i64::try_from(ms).ok()
}

/// Unix milliseconds as the contract writes times: RFC 3339, UTC, milliseconds, `Z`. Beyond the year 9999: the last moment of it.
pub fn rfc3339(ms: u64) -> String {
    const LAST_MS: i64 = 253_402_207_199_999;
    let ms = i64::try_from(ms).unwrap_or(LAST_MS).min(LAST_MS);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => "1970-01-01T00:00:00.000Z".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2024-01-15T10:30:00Z
    const T: i64 = 1_705_314_600_000;

    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse_ms(text, &TimeZone::UTC), expected, "{text:?}");
    }

    #[test]
    fn texts_with_and_without_zone() {
        for (text, expected) in [
            ("2024-01-15T10:30:00Z", T),
            ("2024-01-15t10:30:00z", T),
            ("2024-01-15 10:30:00Z", T),
            (" 2024-01-15T10:30:00Z\n", T),
            ("2024-01-15T10:30:00+00:00", T),
            ("2024-01-15T11:30:00+01:00", T),
            ("2024-01-15T11:30:00+0100", T),
            ("2024-01-15T05:00:00-05:30", T),
            ("2024-01-15T10:30:00.5Z", T + 500),
            ("2024-01-15T10:30:00.123456789Z", T + 123),
            ("2024-01-15T10:30:00.9999+00:00", T + 999),
            ("2024-01-15T10:30:00", T),
            ("2024-01-15T10:30:00.000001", T),
            ("2024-01-15 10:30:00.250", T + 250),
            ("2024-01-15 10:30:00,250", T + 250),
            ("2024-01-15T10:30", T),
            ("2024-01-15T11:30:00[Europe/Berlin]", T),
            ("2024-01-15T11:30:00+01:00[Europe/Berlin]", T),
            ("2024-01-15", T - 37_800_000),
        ] {
            check(text, Some(expected));
        }
        for text in [
            "",
            "now",
            "2024-13-15T10:30:00Z",
            "2024-01-15T25:30:00",
            "NaN",
            "inf",
            "--1",
            "1.2.3",
            ".5",
            "e5",
            "-",
            "null",
            "2024-01-15T10:30:00[Here]",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn texts_without_zone_are_read_in_the_sources() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let hour = 3_600_000;
        for (text, expected) in [
            ("2024-01-15T10:30:00", T - hour),
            ("2024-01-15T10:30:00Z", T),
            // The hour that exists twice: the first time. The hour that does not exist: as far behind the gap.
            ("2024-10-27T02:30:00", 1_729_989_000_000),
            ("2024-03-31T02:30:00", 1_711_848_600_000),
        ] {
            assert_eq!(parse_ms(text, &berlin), Some(expected), "{text}");
        }
    }

    #[test]
    fn numbers_by_their_size() {
        for (text, expected) in [
            ("1705314600", T),
            ("1705314600.25", T + 250),
            ("1705314600.123456", T + 123),
            ("1705314600000", T),
            ("1705314600000.9", T),
            ("1705314600000999", T),
            ("1705314600000.0", T),
            ("1705314600000999999", T),
            ("1.7053146e9", T),
            ("1.7053146E12", T),
            ("+1705314600", T),
            ("0", 0),
            ("-1", -1000),
            ("-0.0001", -1),
            ("99999999999", 99_999_999_999_000),
            ("100000000000", 100_000_000_000),
        ] {
            check(text, Some(expected));
        }
        check("99999999999999999999", Some(99_999_999_999_999));
        check("100000000000000000000", None);
        check(&"9".repeat(60), None);
        check("1e400", None);
    }

    #[test]
    fn the_event_is_within_a_day_of_its_arrival() {
        let arrival = T as u64;
        let check = |ms: i64, expected| assert_eq!(event_time(&ms.to_string(), arrival, &TimeZone::UTC), expected, "{ms}");
        let day = SKEW_MS_MAX as i64;
        check(T, Ok(arrival));
        check(T - day, Ok(arrival - SKEW_MS_MAX));
        check(T + day, Ok(arrival + SKEW_MS_MAX));
        check(T - day - 1, Err(TimestampFault::Skewed));
        check(T + day + 1, Err(TimestampFault::Skewed));
        check(-5, Err(TimestampFault::Skewed));
        assert_eq!(event_time("soon", arrival, &TimeZone::UTC), Err(TimestampFault::Unreadable));
        assert_eq!(event_time("-1", 5, &TimeZone::UTC), Err(TimestampFault::Skewed));
    }

    /// Every day there is, and its neighbours that there are not.
    #[test]
    fn each_day_by_hand_and_by_calendar() {
        for year in (1969..2110).chain([2199, 2200, 2399, 2400, 9998, 9999]) {
            for month in 0..14 {
                for day in 0..33 {
                    let text = format!("{year:04}-{month:02}-{day:02}T23:59:58.999Z");
                    if let Some(ms) = plain_ms(text.as_bytes(), &TimeZone::UTC) {
                        assert_eq!(Some(ms), parse_any(&text, &TimeZone::UTC), "{text}");
                    } else {
                        assert!(year == 1969 || year == 9999 || parse_any(&text, &TimeZone::UTC).is_none(), "{text}");
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_by_hand_reads_the_same(
            text in "[0-9]{1,20}|(19[67]|20[0-9]|99[89])[0-9]-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]([.,][0-9]{0,10})?(Z|z|[+-][0-2][0-9]:?[0-6][0-9]|\\[UTC\\])?",
            berlin in any::<bool>(),
        ) {
            let zone = if berlin { TimeZone::get("Europe/Berlin").unwrap() } else { TimeZone::UTC };
            if let Some(ms) = plain_ms(text.as_bytes(), &zone) {
                prop_assert_eq!(Some(ms), parse_any(&text, &zone), "{}", text);
            }
        }
    }

    #[test]
    fn the_usual_forms_are_read_by_hand() {
        for text in
            ["1705314600", "1705314600000", "2024-01-15T10:30:00Z", "2024-01-15 10:30:00.123456", "2024-01-15T11:30:00.5+01:00"]
        {
            assert!(plain_ms(text.as_bytes(), &TimeZone::UTC).is_some(), "{text}");
        }
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(plain_ms(b"2024-01-15T10:30:00", &berlin), None);
    }
}
