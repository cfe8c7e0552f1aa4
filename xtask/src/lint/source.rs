//! Source text as the rules see it: code apart from comments and literals, and where functions begin and end. Not a
//! parser: it needs only what formatted code shows.

use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Cpp,
    Rust,
}

/// One file of the repository.
pub struct Source {
    /// Relative to the repository, with slashes.
    pub path: String,
    pub text: String,
    /// The text with the inside of comments and literals turned to blanks; line for line, byte for byte.
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = language(path).map_or_else(String::new, |language| blank(text, language));
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Number of the line that holds byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count()
    }

    /// Whether the file lies in `folder`.
    pub fn is_in(&self, folder: &str) -> bool {
        self.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Identifiers of the code and where they begin.
    pub fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        identifiers(&self.code)
    }
}

/// By the file's extension.
pub fn language(path: &str) -> Option<Language> {
    match path.rsplit_once('.')?.1 {
        "rs" => Some(Language::Rust),
        "h" | "cuh" | "cpp" | "cu" => Some(Language::Cpp),
        _ => None,
    }
}

/// Words of code and where they begin; numbers count as words.
pub fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |length| start + length);
        at = end;
        Some((start, &code[start..end]))
    })
}

/// Turns everything inside comments, strings and characters to blanks.
fn blank(text: &str, language: Language) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let hidden = hidden_at(text, at, language);
        for byte in &mut out[hidden.clone()] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = hidden.end.max(at + 1);
    }
    // Characters of several bytes occur only where blanks are now, or stand whole.
    String::from_utf8_lossy(&out).into_owned()
}

/// The comment or literal that begins at `at`; empty when code does.
fn hidden_at(text: &str, at: usize, language: Language) -> Range<usize> {
    let rest = &text.as_bytes()[at..];
    let previous = text.as_bytes()[..at].last().copied().unwrap_or(b' ');
    let word_before = previous.is_ascii_alphanumeric() || previous == b'_';
    let length = match rest[0] {
        b'/' if rest.starts_with(b"//") => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
        b'/' if rest.starts_with(b"/*") => block_comment(rest, language),
        b'"' => quoted(rest, b'"'),
        b'R' if !word_before && rest.starts_with(b"R\"") => ended_by(rest, b")\""),
        b'r' if !word_before && language == Language::Rust => raw_string(rest),
        b'\'' if language == Language::Rust => rust_character(&text[at..]),
        // In C++ a quote inside a number separates digits.
        b'\'' if !word_before => quoted(rest, b'\''),
        _ => 0,
    };
    at..at + length
}

fn block_comment(rest: &[u8], language: Language) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") && (depth == 0 || language == Language::Rust) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn ended_by(rest: &[u8], end: &[u8]) -> usize {
    rest.windows(end.len()).position(|window| window == end).map_or(rest.len(), |at| at + end.len())
}

/// `r"..."` with any number of `#`; 0 for a word that begins with r.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let open = hashes + 2;
    let end = [b"\"".as_slice(), &rest[1..=hashes]].concat();
    open + ended_by(&rest[open..], &end)
}

/// `'x'` or `'\n'`; 0 for a lifetime.
fn rust_character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => quoted(rest.as_bytes(), b'\''),
        Some(_) => characters.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Lines, from the name's to the closing brace's.
    pub first_line: usize,
    pub lines: usize,
}

/// Every function, methods and nested ones too; in Rust also those inside functions.
pub fn functions(source: &Source) -> Vec<Function> {
    let Some(language) = language(&source.path) else { return Vec::new() };
    let code = match language {
        Language::Rust => source.code.clone(),
        Language::Cpp => without_directives(&source.code),
    };
    let mut open: Vec<Option<(String, usize)>> = Vec::new();
    let mut found = Vec::new();
    let mut head = 0;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => {
                let inside = open.iter().any(Option::is_some);
                let name = function_name(&code[head..at], language, inside);
                open.push(name.map(|(name, offset)| (name, source.line(head + offset))));
                head = at + 1;
            }
            b'}' => {
                if let Some(Some((name, first_line))) = open.pop() {
                    let lines = source.line(at) + 1 - first_line;
                    found.push(Function { name, first_line, lines });
                }
                head = at + 1;
            }
            b';' => head = at + 1,
            _ => {}
        }
    }
    found
}

/// Turns preprocessor lines to blanks.
pub fn without_directives(code: &str) -> String {
    let mut continued = false;
    let blank_directive = |line: &str| {
        let directive = continued || line.trim_start().starts_with('#');
        continued = directive && line.trim_end().ends_with('\\');
        if directive { line.replace(|c| c != '\n', " ") } else { line.to_owned() }
    };
    code.split_inclusive('\n').map(blank_directive).collect()
}

/// The function whose body begins after `head`, and where its name stands in there.
fn function_name(head: &str, language: Language, inside_function: bool) -> Option<(String, usize)> {
    let mut words = identifiers(head);
    match language {
        Language::Rust => {
            words.by_ref().find(|&(_, word)| word == "fn")?;
            words.next().map(|(at, word)| (word.to_owned(), at))
        }
        Language::Cpp => {
            const CONTAINERS: [&str; 6] = ["namespace", "struct", "class", "union", "enum", "extern"];
            let template = head.trim_start().starts_with("template");
            let skipped = if template { head.find('>').unwrap_or(0) } else { 0 };
            let container =
                identifiers(&head[skipped..]).next().is_some_and(|(_, word)| CONTAINERS.contains(&word));
            let parenthesis = skipped + head[skipped..].find('(')?;
            if inside_function || container {
                return None;
            }
            identifiers(&head[..parenthesis]).last().map(|(at, word)| (word.to_owned(), at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let cpp = Source::new(
            "a.h",
            "int a = 1'000; // asm\nchar c = '\"'; /* asm\n*/ f(\"asm \\\" asm\", R\"(asm)\");",
        );
        assert_eq!(cpp.code.len(), cpp.text.len());
        assert!(!cpp.code.contains("asm"));
        assert!(cpp.code.contains("1'000;") && cpp.code.contains("f("));

        let rust = Source::new(
            "a.rs",
            "fn f<'a>(x: &'a str) -> char { /* /* unsafe */ unsafe */ r#\"unsafe \"# ; '\\'' }",
        );
        assert!(!rust.code.contains("unsafe"));
        assert!(rust.code.contains("<'a>(x: &'a str)"));
    }

    #[test]
    fn functions_are_measured() {
        let text = "#define X(a) \\\n  {\nnamespace n {\ntemplate <class A = B<int>>\nstruct S {\n  int f() const {\n    if (x) {\n    }\n  }\n};\n\
                    int table[] = {1, 2};\ntemplate <int N>\nvoid g(\n    int x) {\n}\n}\n";
        let found = functions(&Source::new("a.h", text));
        assert_eq!(
            found,
            [
                Function { name: "f".to_owned(), first_line: 6, lines: 4 },
                Function { name: "g".to_owned(), first_line: 13, lines: 3 },
            ]
        );

        let text =
            "impl A for B {\n    fn f(&self) -> u32 {\n        let g = || { 1 };\n        g()\n    }\n}\n";
        let found = functions(&Source::new("a.rs", text));
        assert_eq!(found, [Function { name: "f".to_owned(), first_line: 2, lines: 4 }]);
    }
}
