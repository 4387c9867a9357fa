//! Sizes and times as people say them, in the pages of `compare` and of a run.

/// A number of at least three digits, none of them needless.
pub(crate) fn three_digits(value: f64) -> String {
    let decimals = if value < 1.0 {
        3
    } else if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.decimals$}")
}

/// Bytes as MiB or GiB.
pub(crate) fn bytes(value: f64) -> String {
    let mebibytes = value / f64::from(1 << 20);
    if mebibytes < 1024.0 {
        format!("{} MiB", three_digits(mebibytes))
    } else {
        format!("{} GiB", three_digits(mebibytes / 1024.0))
    }
}

/// Seconds as seconds, minutes or hours.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{} s", three_digits(seconds)),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}
