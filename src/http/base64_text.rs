//! Base64 as it stands in JSON → bytes.
//!
//! `json.rs` and `open_inference/tensors.rs` hand in texts as they are written there. Standard and URL-safe base64 are taken, with and
//! without padding, also as a `data:` URL; line breaks, and letters that are escaped for no need (`\/`, `\u003d`), are read where they
//! lie: what is decoded is the only copy.

use std::io::{self, Read};

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;

/// Bytes that a text of this length holds, at most.
pub(super) fn decoded_length(length: usize) -> u64 {
    (length as u64).div_ceil(4) * 3
}

/// Decodes what stands between the quotes of a valid JSON text.
///
/// # Errors
/// Says what is no base64, and where.
pub(super) fn decode(written: &str) -> Result<Vec<u8>, String> {
    if written.bytes().any(|byte| byte == b'\\' || byte.is_ascii_whitespace()) {
        return decode_letters(written);
    }
    let text = match written.split_once(',') {
        Some((head, rest)) if head.starts_with("data:") => rest,
        _ => written,
    };
    let is_url_safe = text.bytes().any(is_of_the_url_safe);
    engine(is_url_safe).decode(text).map_err(|error| error.to_string())
}

/// The same where letters are escaped or stand apart.
fn decode_letters(written: &str) -> Result<Vec<u8>, String> {
    let mut letters = Unescaped(written.as_bytes().iter()).filter(|byte| !byte.is_ascii_whitespace());
    if letters.clone().take(5).eq(*b"data:") && letters.clone().any(|byte| byte == b',') {
        letters.find(|byte| *byte == b',');
    }
    let engine = engine(letters.clone().any(is_of_the_url_safe));
    let mut bytes = Vec::with_capacity(usize::try_from(decoded_length(written.len())).unwrap_or(0));
    match DecoderReader::new(Letters(letters), &engine).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

fn is_of_the_url_safe(letter: u8) -> bool {
    letter == b'-' || letter == b'_'
}

fn engine(is_url_safe: bool) -> GeneralPurpose {
    let alphabet: &Alphabet = if is_url_safe { &URL_SAFE } else { &STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// The bytes that a JSON text means. What is not ASCII becomes a byte that is none either, and no letter of base64.
#[derive(Clone)]
struct Unescaped<'a>(std::slice::Iter<'a, u8>);

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = *self.0.next()?;
        if byte != b'\\' {
            return Some(byte);
        }
        Some(match *self.0.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut digits = self.0.by_ref().take(4).map(|digit| char::from(*digit).to_digit(16));
                let code = digits.try_fold(0, |code, digit| Some(code * 16 + digit?));
                code.and_then(|code| u8::try_from(code).ok()).filter(u8::is_ascii).unwrap_or(u8::MAX)
            }
            other => other,
        })
    }
}

/// An iterator's bytes, to be read.
struct Letters<I>(I);

impl<I: Iterator<Item = u8>> Read for Letters<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let pairs = buffer.iter_mut().zip(&mut self.0);
        Ok(pairs.map(|(place, letter)| *place = letter).count())
    }
}

/// The texts of a valid JSON value, in lists of any depth, each as it is written between its quotes; an error where anything else
/// stands.
pub(super) fn texts(json: &str) -> impl Iterator<Item = Result<&str, String>> {
    let mut rest = json;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace() || "[],".contains(letter));
        let begun = match rest.strip_prefix('"') {
            Some(begun) => begun,
            None if rest.is_empty() => return None,
            None => {
                let found: String = rest.chars().take(20).collect();
                rest = "";
                return Some(Err(format!("texts in lists are taken, and there stands `{found}`")));
            }
        };
        let mut escaped = false;
        let end = begun.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        // Valid JSON has a quote there.
        let (text, after) = begun.split_at_checked(end.unwrap_or(begun.len())).unwrap_or((begun, ""));
        rest = after.strip_prefix('"').unwrap_or(after);
        Some(Ok(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_taken_in_both_alphabets_with_and_without_padding_and_as_a_data_url() {
        let want = [251, 255, 190, 1];
        for text in [
            "+/++AQ==",
            "+/++AQ",
            "-_--AQ==",
            "-_--AQ",
            "data:image/png;base64,+/++AQ==",
            "data:image\\/png;base64,-_--AQ==",
            "data:image/png;base64, +/++ AQ==",
            "+/++\\r\\nAQ==",
            "+\\/+ +\\tA\\nQ=\\n=\\n",
            "\\u002b/++AQ\\u003d\\u003D",
            " +/++AQ",
        ] {
            assert_eq!(decode(text).as_deref(), Ok(&want[..]), "{text}");
        }
    }

    #[test]
    fn what_is_no_base64_is_refused_however_it_is_written() {
        for text in
            ["+/++A!", "+/++ A!", "+/++\\nA", "AA==\\nAAAA", "AA== AA", "data: AAAA", "\\u00e9AAA", "é\\nAAA"]
        {
            let error = decode(text).expect_err(text);
            assert!(!error.is_empty());
        }
        assert_eq!(decode(""), Ok(Vec::new()));
        assert_eq!(decode("\\n"), Ok(Vec::new()));
    }

    #[test]
    fn a_long_text_with_line_breaks_is_decoded_into_exactly_the_memory_that_was_promised() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|index| ((index * 7919) >> 3) as u8).collect();
        let text = engine(false).encode(&bytes);
        let lines: Vec<&str> =
            text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        let written = lines.join("\\r\\n");
        let decoded = decode(&written).expect("base64");
        assert!(decoded == bytes);
        assert!(decoded.capacity() as u64 <= decoded_length(written.len()));
    }

    #[test]
    fn the_texts_of_lists_are_found_as_they_are_written() {
        let found: Result<Vec<_>, _> = texts(r#" [ ["a", "b\"]\\"], [[]], "", "é\n" ] "#).collect();
        assert_eq!(found, Ok(vec!["a", r#"b\"]\\"#, "", r"é\n"]));
        assert_eq!(texts("[]").count(), 0);
        for other in ["[5]", r#"["a", {"b": "c"}]"#, "null", r#"["a", true]"#] {
            assert!(texts(other).any(|text| text.is_err()), "{other}");
        }
    }
}
