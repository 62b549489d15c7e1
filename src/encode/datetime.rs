//! Dates and timestamps in ISO 8601 as `JsonEncodeDateTime` writes them, with the zone always UTC. Pure.

/// Days from 1970-01-01 to 2000-01-01, where Postgres' calendar starts.
const EPOCH_DAYS: i64 = 10_957;
const USECS_PER_DAY: i64 = 86_400_000_000;

/// Appends a `date`: days since 2000-01-01, its ends are the infinities.
pub(super) fn append_date(out: &mut Vec<u8>, days: i32) {
    match days {
        i32::MIN => out.extend_from_slice(b"\"-infinity\""),
        i32::MAX => out.extend_from_slice(b"\"infinity\""),
        _ => {
            out.push(b'"');
            let before_christ = append_day(out, i64::from(days));
            close(out, before_christ);
        }
    }
}

/// Appends a `timestamp`: microseconds since 2000-01-01 00:00, its ends are the infinities.
pub(super) fn append_timestamp(out: &mut Vec<u8>, usecs: i64, with_zone: bool) {
    match usecs {
        i64::MIN => return out.extend_from_slice(b"\"-infinity\""),
        i64::MAX => return out.extend_from_slice(b"\"infinity\""),
        _ => {}
    }
    out.push(b'"');
    let before_christ = append_day(out, usecs.div_euclid(USECS_PER_DAY));
    let time = usecs.rem_euclid(USECS_PER_DAY);
    let seconds = time / 1_000_000;
    out.push(b'T');
    append_two(out, seconds / 3600);
    out.push(b':');
    append_two(out, seconds / 60 % 60);
    out.push(b':');
    append_two(out, seconds % 60);
    append_fraction(out, time % 1_000_000);
    if with_zone {
        out.extend_from_slice(b"+00:00");
    }
    close(out, before_christ);
}

fn close(out: &mut Vec<u8>, before_christ: bool) {
    out.extend_from_slice(if before_christ { b" BC\"" } else { b"\"" });
}

/// Appends `year-month-day` and tells whether the year is one before Christ.
fn append_day(out: &mut Vec<u8>, days: i64) -> bool {
    let (year, month, day) = civil(days + EPOCH_DAYS);
    let before_christ = year <= 0;
    let shown = if before_christ { 1 - year } else { year };
    if shown < 10_000 {
        append_two(out, shown / 100);
        append_two(out, shown % 100);
    } else {
        super::number::append_int(out, shown);
    }
    out.push(b'-');
    append_two(out, month);
    out.push(b'-');
    append_two(out, day);
    before_christ
}

/// The proleptic Gregorian date of a day counted from 1970-01-01; year 0 is 1 BC.
/// Counts in eras of 400 years that start on the first of March, so that leap days come last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn append_two(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&[b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
}

/// Appends microseconds as a fraction without trailing zeros, or nothing.
fn append_fraction(out: &mut Vec<u8>, usecs: i64) {
    if usecs == 0 {
        return;
    }
    out.push(b'.');
    append_two(out, usecs / 10_000);
    append_two(out, usecs / 100 % 100);
    append_two(out, usecs % 100);
    while out.last() == Some(&b'0') {
        out.pop();
    }
}
