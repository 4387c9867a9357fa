//! A number of bytes as people write it: `2GiB`, `500MB`, `1073741824`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// Text that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no number of bytes: a number is wanted, alone or with KB, MB, GB, TB (thousands) or KiB, MiB, GiB, TiB (1,024s), as in 2GiB or 500MB"
)]
pub struct ByteCountError(String);

/// What a unit multiplies by; without regard to case. A letter alone counts in 1,024s, as memory does.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

impl FromStr for ByteCount {
    type Err = ByteCountError;

    /// A number, perhaps with a fraction (`1.5GiB`), and a unit.
    fn from_str(text: &str) -> Result<Self, ByteCountError> {
        let refused = || ByteCountError(text.to_owned());
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit.trim_start().to_ascii_lowercase();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(*factor).map(Self).ok_or_else(refused);
        }
        let value = number.parse::<f64>().map_err(|_| refused())? * *factor as f64;
        // Beyond 2^53 a fraction means nothing, and no disk is as large.
        if value < (1u64 << 53) as f64 { Ok(Self(value as u64)) } else { Err(refused()) }
    }
}

impl fmt::Display for ByteCount {
    /// In the largest binary unit that it has one of, to a tenth.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
        let unit = (self.0.max(1).ilog2() / 10).min(4);
        match unit {
            0 => write!(f, "{} bytes", self.0),
            _ => write!(f, "{:.1} {}", self.0 as f64 / (1u64 << (10 * unit)) as f64, NAMES[unit as usize]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_and_without_a_unit_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1073741824", 1 << 30),
            ("2GiB", 2 << 30),
            ("2 gib", 2 << 30),
            ("2G", 2 << 30),
            ("500MB", 500_000_000),
            ("1.5KiB", 1536),
            ("10TB", 10_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused_with_an_example() {
        for text in ["", "GiB", "-1", "2GiBs", "1e9", "1.2.3MB", "99999999999TiB", "."] {
            let error = text.parse::<ByteCount>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("500MB"), "{error}");
        }
    }

    #[test]
    fn it_is_shown_in_a_unit_that_fits() {
        let shown = |bytes| ByteCount(bytes).to_string();
        assert_eq!(
            [shown(0), shown(1023), shown(1536), shown(5 << 30)],
            ["0 bytes", "1023 bytes", "1.5 KiB", "5.0 GiB"]
        );
    }
}
