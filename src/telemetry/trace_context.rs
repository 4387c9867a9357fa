//! W3C Trace Context: `traceparent` read, ids made and shown.
//!
//! `http/trace.rs` takes the header from a request and opens the span; `otlp.rs` exports it. Nothing here knows of either.

use std::fmt;

/// The caller's span, from `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    /// 16 bytes, not all zero.
    pub(crate) trace_id: [u8; 16],
    /// 8 bytes, not all zero.
    pub(crate) span_id: [u8; 8],
    /// Whether the caller keeps this trace.
    pub(crate) sampled: bool,
}

impl Parent {
    /// `version-trace_id-parent_id-flags` in lower-case hex: <https://www.w3.org/TR/trace-context/#traceparent-header>.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [version] = hex(known.get(..2)?)?;
        // Later versions may say more, after another dash; this one ends here, and version ff is none.
        let ended = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        if !ended || !dashes {
            return None;
        }
        let (trace_id, span_id) = (hex(known.get(3..35)?)?, hex(known.get(36..52)?)?);
        let [flags] = hex(known.get(53..55)?)?;
        let real = trace_id != [0; 16] && span_id != [0; 8];
        real.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// The ids of a span, as the log shows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids {
    /// The trace: the caller's, or a new one.
    pub(crate) trace_id: [u8; 16],
    /// This request's own span in it.
    pub(crate) span_id: [u8; 8],
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

impl Ids {
    /// A new span, in the caller's trace or in one of its own.
    pub(crate) fn new(parent: Option<Parent>) -> Self {
        let trace_id = parent.map_or_else(|| uuid::Uuid::new_v4().into_bytes(), |parent| parent.trace_id);
        let [a, b, c, d, e, f, .., g, h] = uuid::Uuid::new_v4().into_bytes();
        // Bits that are random in every UUID; all of them zero is no id.
        let span_id = u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1).to_be_bytes();
        Self { trace_id, span_id }
    }
}

/// Bytes as lower-case hex.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_parent_is_read_as_the_specification_writes_it() {
        let parent = Parent::parse(GOOD.as_bytes()).expect("the specification's own example");
        assert_eq!(Hex(&parent.trace_id).to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(Hex(&parent.span_id).to_string(), "b7ad6b7169203331");
        assert!(parent.sampled);
        let unsampled = GOOD.replace("-01", "-00");
        assert_eq!(Parent::parse(unsampled.as_bytes()).map(|parent| parent.sampled), Some(false));
        let more_flags = GOOD.replace("-01", "-ff");
        assert_eq!(Parent::parse(more_flags.as_bytes()).map(|parent| parent.sampled), Some(true));
        for later in ["01", "cc", "fe"] {
            let later = GOOD.replacen("00", later, 1);
            assert_eq!(Parent::parse(later.as_bytes()), Some(parent), "{later}");
            assert_eq!(Parent::parse(format!("{later}-what-the-future-brings").as_bytes()), Some(parent));
            assert_eq!(Parent::parse(format!("{later}.what").as_bytes()), None);
        }
    }

    #[test]
    fn what_is_malformed_is_no_parent() {
        for wrong in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 ",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331aa-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        ] {
            assert_eq!(Parent::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_request_has_a_span_of_its_own_in_its_callers_trace() {
        let parent = Parent::parse(GOOD.as_bytes());
        let (first, second) = (Ids::new(parent), Ids::new(parent));
        assert_eq!(first.trace_id, second.trace_id);
        assert_ne!(first.span_id, second.span_id);
        assert_ne!(Ids::new(None).trace_id, Ids::new(None).trace_id);
    }
}
