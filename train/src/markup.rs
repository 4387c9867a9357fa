//! Text within HTML and SVG. The pages of `compare` and of a run put every name that they did not make themselves through
//! here.

/// Text that is nothing but text in HTML and XML, in an attribute as well. Control characters, which XML forbids and a page
/// has no use for, become the replacement character.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(letter),
            letter if letter.is_control() => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

/// At most `letters` letters of a text: its two ends, which tell similar names apart.
pub(crate) fn shortened(text: &str, letters: usize) -> String {
    let count = text.chars().count();
    if count <= letters || letters < 3 {
        return text.to_owned();
    }
    let (first, last) = (letters / 2, letters - letters / 2 - 1);
    let ends = text.chars().take(first).chain(['…']);
    ends.chain(text.chars().skip(count - last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(
            escaped("<a href='x'>\"&\0\u{85}"),
            "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\u{fffd}\u{fffd}"
        );
        assert_eq!(escaped("ü\n日本"), "ü\n日本");
    }

    #[test]
    fn a_long_name_keeps_its_two_ends() {
        assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
        assert_eq!(shortened("äbcdefghijk", 10), "äbcde…hijk");
    }
}
