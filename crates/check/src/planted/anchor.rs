//! Places in C++ sources, named by a few of their tokens.
//!
//! An anchor is a short run of tokens, which occurs once in all sources. Where the run that is to change occurs more
//! than once, a context that occurs once precedes it: in `void store ... sync(warp);` the three dots elide everything
//! up to the nearest `sync(warp);` after `void store`. Only the last part is replaced. Neither whitespace nor comments
//! nor directives of the preprocessor are tokens, so that code which is moved or formatted keeps its anchors.

use std::ops::Range;

use super::Edit;

/// A file that may be changed.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// Changes the one place that the anchor names, and returns the index of its source.
///
/// # Errors
/// What is wrong with the anchor, and where it was found.
pub fn apply(sources: &mut [Source], edit: &Edit) -> Result<usize, String> {
    let (file, place) = find(sources, edit.anchor)?;
    sources[file].text.replace_range(place, edit.code);
    Ok(file)
}

/// The source and the bytes that the anchor names.
fn find(sources: &[Source], anchor: &str) -> Result<(usize, Range<usize>), String> {
    let words: Vec<&str> = tokens(anchor).into_iter().map(|token| &anchor[token]).collect();
    let parts: Vec<&[&str]> = words.split(|&word| word == "...").collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("`{anchor}` has a part without tokens"));
    }
    let texts: Vec<Tokens> = sources.iter().map(|source| Tokens::new(&source.text)).collect();
    let runs =
        texts.iter().enumerate().flat_map(|(file, text)| text.runs(parts[0]).map(move |run| (file, run)));
    let runs: Vec<(usize, Range<usize>)> = runs.collect();
    let at = |(file, run): &(usize, Range<usize>)| {
        format!("{}:{}", sources[*file].path, texts[*file].line(run.start))
    };
    let [unique] = &runs[..] else {
        let places: Vec<String> = runs.iter().map(at).collect();
        let places = if places.is_empty() { "nowhere".to_owned() } else { places.join(", ") };
        return Err(format!("`{}` must occur once for `{anchor}`; found: {places}", parts[0].join(" ")));
    };
    let (file, mut run) = unique.clone();
    for part in &parts[1..] {
        let next = texts[file].runs(part).find(|next| next.start >= run.end);
        run = next.ok_or_else(|| {
            let context = at(&(file, run.clone()));
            format!("`{}` of `{anchor}` does not occur after {context}", part.join(" "))
        })?;
    }
    Ok((file, texts[file].bytes(run)))
}

/// A text and where its tokens lie.
struct Tokens<'a> {
    text: &'a str,
    tokens: Vec<Range<usize>>,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, tokens: tokens(text) }
    }

    /// Where these words follow each other, in tokens.
    fn runs<'b>(&'b self, words: &'b [&str]) -> impl Iterator<Item = Range<usize>> + 'b {
        let windows = self.tokens.windows(words.len()).enumerate();
        let same = move |window: &[Range<usize>]| {
            window.iter().zip(words).all(|(t, word)| self.text[t.clone()] == **word)
        };
        windows.filter(move |(_, window)| same(window)).map(|(first, _)| first..first + words.len())
    }

    fn bytes(&self, run: Range<usize>) -> Range<usize> {
        self.tokens[run.start].start..self.tokens[run.end - 1].end
    }

    /// The line of a token, from 1 on.
    fn line(&self, token: usize) -> usize {
        1 + self.text[..self.tokens[token].start].matches('\n').count()
    }
}

/// Operators of several characters. `>>` is none: it may close two templates.
const OPERATORS: [&str; 22] = [
    "...", "<<=", "::", "->", "++", "--", "<<", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=",
    "%=", "&=", "|=", "^=", "##",
];

/// Where the tokens of C++ text lie.
pub(super) fn tokens(text: &str) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let begins_line = text[..at].rsplit('\n').next().is_some_and(|before| before.trim().is_empty());
        if let Some(blank) = blank_length(&text[at..], begins_line) {
            at += blank;
        } else {
            let length = token_length(&text[at..]);
            tokens.push(at..at + length);
            at += length;
        }
    }
    tokens
}

/// Bytes of the whitespace, comment or directive that `rest` begins with.
fn blank_length(rest: &str, begins_line: bool) -> Option<usize> {
    let line = rest.find('\n').unwrap_or(rest.len());
    if rest.starts_with(char::is_whitespace) {
        Some(rest.len() - rest.trim_start().len())
    } else if rest.starts_with("//") || (begins_line && rest.starts_with('#')) {
        Some(line)
    } else if rest.starts_with("/*") {
        Some(rest.find("*/").map_or(rest.len(), |end| end + 2))
    } else {
        None
    }
}

/// Bytes of the token that `rest` begins with.
fn token_length(rest: &str) -> usize {
    let first = rest.chars().next().expect("a token");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if first.is_ascii_digit() {
        let mut previous = first;
        let ends = |c: char| {
            let exponent = "eEpP".contains(previous) && "+-".contains(c);
            previous = c;
            !(is_word(c) || c == '.' || c == '\'' || exponent)
        };
        rest.find(ends).unwrap_or(rest.len())
    } else if is_word(first) {
        rest.find(|c| !is_word(c)).unwrap_or(rest.len())
    } else if first == '"' || first == '\'' {
        let mut escaped = true;
        let ends = |c: char| {
            let closes = c == first && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        };
        rest.find(ends).map_or(rest.len(), |end| end + 1)
    } else {
        OPERATORS.iter().find(|o| rest.starts_with(**o)).map_or(first.len_utf8(), |o| o.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "\
// Waits twice.
void store(Ring<Wide<1>>& ring) {
  wait(ring.phase ^ 1);  // the one before
  sum += rows[i];
  sync(warp);
#pragma unroll 2
  for (uint32_t i = 0x1p+3f; i < rows; ++i) copy(i);
  sync(warp);
}
";

    /// The same code, formatted by somebody else.
    const STORE_FORMATTED: &str = "\
void
store( Ring< Wide<1> > & ring )
{
    /* the one before */
    wait(
        ring.phase  // of the ring
            ^ 1 );
    sum+=rows[ i ];  sync( warp );
    for ( uint32_t i = 0x1p+3f; i<rows; ++i )
        copy( i );
    // All of them.
    sync( warp );
}
";

    fn sources(texts: &[&str]) -> Vec<Source> {
        let names = ["store.cuh", "load.cuh"];
        let source = |(text, name): (&&str, &str)| Source { path: name.to_owned(), text: (*text).to_owned() };
        texts.iter().zip(names).map(source).collect()
    }

    /// The tokens of a text after an edit.
    fn edited(text: &str, anchor: &'static str, code: &'static str) -> Result<String, String> {
        let mut sources = sources(&[text]);
        apply(&mut sources, &Edit { anchor, code })?;
        let text = &sources[0].text;
        Ok(tokens(text).into_iter().map(|token| &text[token]).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn formatting_moves_no_anchor() {
        for (anchor, code) in [
            ("wait(ring.phase ^ 1);", ""),
            ("phase ^ 1); sum += rows[i]", "phase); sum -= rows[i]"),
            ("0x1p+3f", "0"),
            ("Ring<Wide<1>>&", "auto"),
            ("void store ... sync(warp);", ""),
            ("++i ... sync(warp);", ""),
        ] {
            let changed = edited(STORE, anchor, code);
            assert!(changed.is_ok(), "{changed:?}");
            assert_eq!(changed, edited(STORE_FORMATTED, anchor, code), "{anchor}");
        }
    }

    #[test]
    fn a_line_between_the_parts_of_an_anchor_moves() {
        let moved = STORE
            .replace("  sum += rows[i];\n", "")
            .replace("  sync(warp);\n#", "  sync(warp);\n  sum += rows[i];\n#");
        assert_ne!(moved, STORE);
        let changed = edited(&moved, "void store ... sync(warp);", "").expect("the first of two");
        assert!(changed.contains("phase ^ 1 ) ; sum += rows"), "{changed}");
    }

    #[test]
    fn only_the_last_part_changes_and_the_nearest_one() {
        let first = edited(STORE, "void store ... sync(warp);", "done();").expect("the first of two");
        assert!(first.contains("sum += rows [ i ] ; done ( ) ; for"), "{first}");
        let second =
            edited(STORE, "void store ... for ( ... sync(warp);", "done();").expect("the second of two");
        assert!(second.ends_with("copy ( i ) ; done ( ) ; }"), "{second}");
    }

    #[test]
    fn tokens_match_whole() {
        for part in ["row", "sum +", "i <=", "+3f", "Waits", "unroll"] {
            assert!(find(&sources(&[STORE]), part).is_err(), "{part}");
        }
    }

    #[test]
    fn ambiguous_anchors_name_their_places() {
        let texts = sources(&[STORE, "\n// sync(warp)\nvoid load() { sync(warp); }\n"]);
        let message = find(&texts, "sync(warp)").expect_err("three places");
        assert!(message.contains("`sync ( warp )`"), "{message}");
        assert!(message.ends_with("found: store.cuh:5, store.cuh:8, load.cuh:3"), "{message}");
        let message = find(&texts, "sync(warp) ... copy").expect_err("three contexts");
        assert!(message.ends_with("found: store.cuh:5, store.cuh:8, load.cuh:3"), "{message}");
    }

    #[test]
    fn missing_anchors_say_what_was_looked_for() {
        let texts = sources(&[STORE]);
        let message = find(&texts, "sync(warpgroup)").expect_err("no place");
        assert!(message.contains("`sync ( warpgroup )`") && message.ends_with("found: nowhere"), "{message}");
        let message = find(&texts, "++i ... wait(").expect_err("only before");
        assert!(message.contains("`wait (`") && message.ends_with("after store.cuh:7"), "{message}");
        assert!(find(&texts, "void store ...").is_err_and(|message| message.contains("without tokens")));
    }
}
