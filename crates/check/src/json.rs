//! Results as a file.

use serde::Serialize;

/// JSON for people too, in ASCII: what a terminal would obey in a name from a file is written as JSON's escapes.
pub fn render(results: &impl Serialize) -> Result<String, String> {
    let text = serde_json::to_string_pretty(results).map_err(|error| format!("the results: {error}"))?;
    let mut ascii = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if character.is_ascii() && character != '\x7f' {
            ascii.push(character);
        } else {
            // Outside of strings JSON has none of these.
            let mut units = [0; 2];
            character.encode_utf16(&mut units).iter().for_each(|unit| ascii += &format!("\\u{unit:04x}"));
        }
    }
    ascii.push('\n');
    Ok(ascii)
}
