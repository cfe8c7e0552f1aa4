//! What pictures are drawn of. Across, places are parts of the width, so that a picture fits a phone and a wide window with
//! letters of one size; down, they are pixels.

use maud::{Markup, PreEscaped, html};

/// Colours, and what of a picture has which, in light and in dark.
pub const STYLE: &str = include_str!("chart.css");

/// Pixels across of a picture that is a file.
const FILE_WIDTH: u32 = 820;
const MARGIN: f64 = 16.0;

/// A picture.
pub struct Picture {
    pub title: String,
    /// What it shows, in words: for who cannot see it, and below its title where it is a file.
    pub about: String,
    pub height: f64,
    pub body: Markup,
}

impl Picture {
    /// As a part of a page that has the style.
    pub fn inline(&self, id: &str) -> Markup {
        let (title, about) = (format!("{id}-title"), format!("{id}-about"));
        html! {
            svg .chart role="img" aria-labelledby={ (title) " " (about) } width="100%" height=(pixels(self.height)) {
                title id=(title) { (self.title) }
                desc id=(about) { (self.about) }
                (self.body)
            }
        }
    }

    /// Pictures as a file of their own.
    pub fn file(title: &str, about: &str, pictures: &[Self]) -> String {
        const LINE: f64 = 16.0;
        let about_lines = lines(about, 120);
        let top = MARGIN + 22.0 + LINE * about_lines.len() as f64 + 14.0;
        let (body, height) = match pictures {
            [alone] => (alone.body.clone(), alone.height),
            _ => beside(pictures),
        };
        let inner = f64::from(FILE_WIDTH) - 2.0 * MARGIN;
        let svg = html! {
            svg .chart xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title about"
                width=(FILE_WIDTH) height=(pixels(top + height + MARGIN)) {
                title #title { (title) }
                desc #about { (about) }
                style { (PreEscaped(STYLE)) }
                rect .paper width="100%" height="100%" {}
                text .head x=(MARGIN) y="30" { (title) }
                @for (line, words) in about_lines.iter().enumerate() {
                    text .quiet x=(MARGIN) y=(pixels(50.0 + LINE * line as f64)) { (words) }
                }
                svg x=(MARGIN) y=(pixels(top)) width=(pixels(inner)) height=(pixels(height)) overflow="visible" { (body) }
            }
        };
        svg.into_string()
    }
}

/// Pictures in two columns, each below its title, and where there is most room; and how high they are together.
fn beside(pictures: &[Picture]) -> (Markup, f64) {
    const COLUMN: f64 = 0.48;
    const HEAD: f64 = 26.0;
    const BELOW: f64 = 22.0;
    let mut tops = [0.0; 2];
    let mut body = Vec::new();
    for picture in pictures {
        let column = usize::from(tops[1] < tops[0]);
        body.push(html! {
            svg x=(across((1.0 - COLUMN) * column as f64)) y=(pixels(tops[column])) width=(across(COLUMN))
                height=(pixels(HEAD + picture.height)) overflow="visible" {
                text .name x="0" y="12" { (picture.title) }
                svg y=(pixels(HEAD)) width="100%" height=(pixels(picture.height)) overflow="visible" { (picture.body) }
            }
        });
        tops[column] += HEAD + picture.height + BELOW;
    }
    (html! { @for picture in &body { (picture) } }, tops[0].max(tops[1]) - BELOW)
}

/// A length in pixels; none where there is no number.
pub fn pixels(length: f64) -> String {
    format!("{:.1}", if length.is_finite() { length } else { 0.0 })
}

/// A part of the width.
pub fn across(part: f64) -> String {
    format!("{:.2}%", if part.is_finite() { 100.0 * part } else { 0.0 })
}

/// The text in lines of at most so many letters; a word that is longer is broken.
pub fn lines(text: &str, letters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + word.len() > letters {
            lines.push(String::new());
        } else if used > 0 {
            lines.last_mut().expect("a line").push(' ');
        }
        while word.len() > letters {
            let rest = word.split_off(letters);
            lines.last_mut().expect("a line").extend(word);
            lines.push(String::new());
            word = rest;
        }
        lines.last_mut().expect("a line").extend(word);
    }
    lines
}

/// The colour of a kind: they come again where there are many.
pub fn colour(kind: usize) -> usize {
    const COLOURS: usize = 6;
    kind % COLOURS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_number() {
        assert_eq!((pixels(f64::NAN), pixels(1.25)), ("0.0".to_owned(), "1.2".to_owned()));
        assert_eq!((across(f64::INFINITY), across(0.5)), ("0.00%".to_owned(), "50.00%".to_owned()));
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(lines("a bc def", 4), ["a bc", "def"]);
        assert_eq!(lines("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(lines("", 4), [""]);
        let text = "8 experts, 4096 x 7168 x 2048, ragged, every second one empty, outliers of 448";
        for letters in 1..90 {
            let lines = lines(text, letters);
            assert!(lines.iter().all(|line| line.chars().count() <= letters), "{lines:?}");
            assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        }
    }
}
