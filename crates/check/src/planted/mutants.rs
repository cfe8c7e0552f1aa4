//! Mutants of the kernels' sources: every small change of a kind, made without knowing what the code is for.
//!
//! Faults are what somebody thought could go wrong; mutants are what nobody thought of. One that no trial notices is a gap of
//! the suite, or changes nothing that counts: then its reason is kept (`tests/faults/survivors.txt`).

use std::ops::Range;

use super::anchor::tokens;

/// A change of one place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// From 1 on.
    pub line: usize,
    /// The line as it is, without what stands around it.
    pub text: String,
    /// What is done.
    pub change: String,
    /// Whether it takes away a call: most of what keeps threads in order is one.
    pub deletes: bool,
    place: Range<usize>,
    code: String,
}

impl Mutant {
    /// The file with the change.
    pub fn applied(&self, text: &str) -> String {
        [&text[..self.place.start], &self.code, &text[self.place.end..]].concat()
    }
}

/// What takes the place of an operator.
const OPERATORS: [(&str, &str); 14] = [
    ("<", "<="),
    ("<=", "<"),
    (">", ">="),
    (">=", ">"),
    ("==", "!="),
    ("!=", "=="),
    ("&&", "||"),
    ("||", "&&"),
    ("+", "-"),
    ("-", "+"),
    ("*", "+"),
    ("/", "*"),
    ("%", "/"),
    ("^", "|"),
];

/// Words before a parenthesis that is no call's.
const NO_CALLS: [&str; 8] = ["if", "for", "while", "switch", "return", "static_assert", "sizeof", "alignas"];

/// Every mutant of a file, in its order.
pub fn mutants(text: &str) -> Vec<Mutant> {
    let source = Source { text, tokens: tokens(text) };
    (0..source.tokens.len()).flat_map(|token| source.at(token)).collect()
}

struct Source<'t> {
    text: &'t str,
    tokens: Vec<Range<usize>>,
}

impl Source<'_> {
    fn word(&self, token: usize) -> &str {
        self.tokens.get(token).map_or("", |place| &self.text[place.clone()])
    }

    /// Those that begin with a token.
    fn at(&self, token: usize) -> Vec<Mutant> {
        let asserts = self.line(token).starts_with("static_assert");
        if asserts {
            return vec![];
        }
        [self.without_call(token), self.negated(token), self.operator(token), self.number(token)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// A statement that is a call alone: `pipeline.release(ring);` is gone.
    fn without_call(&self, first: usize) -> Option<Mutant> {
        let before = if first == 0 { "" } else { self.word(first - 1) };
        if !matches!(before, ";" | "{" | "}" | ")" | "else") || NO_CALLS.contains(&self.word(first)) {
            return None;
        }
        let mut at = first;
        loop {
            if !self.word(at).starts_with(|c: char| c.is_alphabetic() || c == '_') {
                return None;
            }
            at += 1;
            at = self.behind_arguments_of_template(at);
            match self.word(at) {
                "::" | "." | "->" => at += 1,
                "(" => break,
                _ => return None,
            }
        }
        let closing = self.closing(at, "(", ")")?;
        (self.word(closing + 1) == ";").then(|| {
            let place = self.tokens[first].start..self.tokens[closing].end;
            let called = self.text[self.tokens[first].start..self.tokens[at].start].to_owned();
            self.mutant(place, "", format!("no {called}"), true)
        })
    }

    /// `if (a)` asks for the contrary.
    fn negated(&self, token: usize) -> Option<Mutant> {
        if self.word(token) != "if" || self.word(token + 1) != "(" {
            return None;
        }
        let closing = self.closing(token + 1, "(", ")")?;
        let place = self.tokens[token + 1].end..self.tokens[closing].start;
        let code = format!("!({})", &self.text[place.clone()]);
        Some(self.mutant(place, &code, "if not".to_owned(), false))
    }

    /// Of two operands: the formatter puts blanks around it, and around nothing else that looks like it.
    fn operator(&self, token: usize) -> Option<Mutant> {
        let word = self.word(token);
        let (_, code) = OPERATORS.iter().find(|(operator, _)| *operator == word)?;
        let place = self.tokens[token].clone();
        let blank = |text: &str, at: Option<usize>| {
            at.and_then(|at| text[at..].chars().next()).is_some_and(char::is_whitespace)
        };
        let apart = blank(self.text, place.start.checked_sub(1)) && blank(self.text, Some(place.end));
        let of_template = token > 0 && self.word(token - 1) == "template";
        (apart && !of_template).then(|| self.mutant(place, code, format!("{word} is {code}"), false))
    }

    /// A whole number is one more; `true` is `false`.
    fn number(&self, token: usize) -> Option<Mutant> {
        let word = self.word(token);
        let code = match word {
            "true" => "false".to_owned(),
            "false" => "true".to_owned(),
            _ => (word.trim_end_matches(['u', 'U']).parse::<u64>().ok()? + 1).to_string(),
        };
        Some(self.mutant(self.tokens[token].clone(), &code, format!("{word} is {code}"), false))
    }

    /// `f<1>(x)`: from `<` on to behind `>`, where there is one.
    fn behind_arguments_of_template(&self, token: usize) -> usize {
        let directly = |token: usize| {
            token > 0 && self.tokens.get(token).is_some_and(|place| place.start == self.tokens[token - 1].end)
        };
        match self.word(token) {
            "<" if directly(token) => self.closing(token, "<", ">").map_or(token, |closing| closing + 1),
            _ => token,
        }
    }

    /// The token that closes what one opens.
    fn closing(&self, open: usize, opens: &str, closes: &str) -> Option<usize> {
        let mut depth = 0;
        (open..self.tokens.len()).find(|&token| {
            let word = self.word(token);
            depth += i32::from(word == opens) - i32::from(word == closes);
            depth == 0
        })
    }

    fn line(&self, token: usize) -> &str {
        let start = self.tokens[token].start;
        let begin = self.text[..start].rfind('\n').map_or(0, |end| end + 1);
        self.text[begin..].lines().next().unwrap_or_default().trim()
    }

    fn mutant(&self, place: Range<usize>, code: &str, change: String, deletes: bool) -> Mutant {
        let token = self.tokens.partition_point(|other| other.end <= place.start);
        Mutant {
            line: 1 + self.text[..place.start].matches('\n').count(),
            text: self.line(token).to_owned(),
            change,
            deletes,
            place,
            code: code.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str) -> Vec<String> {
        mutants(text).iter().map(|mutant| mutant.applied(text)).collect()
    }

    #[test]
    fn calls_go_and_declarations_stay() {
        assert_eq!(changed("void f() { wait(); }"), ["void f() { ; }"]);
        assert_eq!(changed("{ ptx::arrive<A, B>(x.y(), z); }"), ["{ ; }"]);
        assert_eq!(changed("if (leads) ring.advance();"), ["if (!(leads)) ring.advance();", "if (leads) ;"]);
        for text in [
            "{ Pipeline<A> pipeline(x); }",
            "{ return f(x); }",
            "{ const auto y = f(x); }",
            "static_assert(A == 1 && B < 2);",
            "template <class T> void f(T x);",
            "{ T* p = &x; }",
        ] {
            assert_eq!(changed(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn operators_numbers_and_conditions_change() {
        assert_eq!(changed("x = a + b;"), ["x = a - b;"]);
        assert_eq!(changed("x = a < 3;"), ["x = a <= 3;", "x = a < 4;"]);
        assert_eq!(changed("x = f<T>(-y);"), [""; 0]);
        assert_eq!(changed("x = true && y;"), ["x = false && y;", "x = true || y;"]);
        let mutants = mutants("{\n  // 1\n  x = 0x10 % 7u;\n}");
        assert_eq!(mutants.len(), 2);
        assert_eq!((mutants[0].line, mutants[0].text.as_str()), (3, "x = 0x10 % 7u;"));
        assert_eq!((mutants[0].change.as_str(), mutants[1].change.as_str()), ("% is /", "7u is 8"));
    }
}
