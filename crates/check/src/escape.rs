//! Text of others on a terminal: names and values of files, arguments and the environment.

/// The text with what a terminal would obey or hide written as an escape: controls, line ends, marks of direction, blanks
/// that look like none. What is left takes one line.
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // A program's own quotes, and what stands in patterns and paths.
            '\'' | '"' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// Escaped, and where it takes more than `limit` characters without its middle: beginnings and ends are what tells names of
/// one model apart.
pub fn shortened(text: &str, limit: usize) -> String {
    let shown = escaped(text);
    let length = shown.chars().count();
    if length <= limit {
        return shown;
    }
    let (head, tail) = (limit / 2, limit - limit / 2 - 1);
    shown.chars().take(head).chain(['…']).chain(shown.chars().skip(length - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (text, shown) in [
            ("model.layers.0", "model.layers.0"),
            (r"^l\.'weight'$", r"^l\.'weight'$"),
            ("größe 重み", "größe 重み"),
            ("a\nb\tc\r", r"a\nb\tc\r"),
            ("\u{1b}[31mred\u{7}\0", r"\u{1b}[31mred\u{7}\0"),
            ("\u{9b}2J\u{7f}", r"\u{9b}2J\u{7f}"),
            ("\u{202e}gnp\u{2066}\u{200f}", r"\u{202e}gnp\u{2066}\u{200f}"),
            ("a\u{200b}b\u{feff}\u{2028}\u{85}", r"a\u{200b}b\u{feff}\u{2028}\u{85}"),
            ("e\u{301}", r"e\u{301}"),
        ] {
            assert_eq!(escaped(text), shown);
        }
        for character in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| c.is_control()) {
            assert!(!escaped(&character.to_string()).contains(character), "{character:?}");
        }
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(
            shortened("model.layers.0.mlp.gate_proj.weight", 40),
            "model.layers.0.mlp.gate_proj.weight"
        );
        let long = "model.layers.60.mlp.experts.255.gate_proj.weight_scale_inv";
        assert_eq!(shortened(long, 40), "model.layers.60.mlp.…oj.weight_scale_inv");
        assert_eq!(shortened(long, 40).chars().count(), 40);
        assert!(shortened(&"\u{1b}".repeat(1000), 40).chars().count() <= 40);
    }
}
