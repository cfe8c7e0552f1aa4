//! What a model's `config.json` says of its scales.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::checkpoint::{MAX_QUOTE, open_regular};
use crate::escape::shortened;

/// Rows and columns that share a scale.
pub type BlockSize = [usize; 2];

/// The file's name.
pub const NAME: &str = "config.json";

const MAX_BYTES: u64 = 1 << 26;

/// The blocks that a folder's `config.json` gives, if there is one and it does.
///
/// # Errors
/// Why what is there cannot be used: a note, for the weights are there without it.
pub fn block_size(folder: &Path) -> Result<Option<BlockSize>, String> {
    let path = folder.join(NAME);
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let read = || {
        let mut text = Vec::new();
        let file = open_regular(&path)?;
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| error.to_string())?;
        of_text(&text)
    };
    read().map_err(|reason| format!("{} is not used: {reason}", path.display()))
}

fn of_text(text: &[u8]) -> Result<Option<BlockSize>, String> {
    let config: Value = serde_json::from_slice(text)
        .map_err(|error| format!("not JSON: {}", shortened(&error.to_string(), MAX_QUOTE)))?;
    // Beside the model's other settings, or with those of its part for text.
    let places = [&config, &config["text_config"]];
    let sizes = places.map(|place| &place["quantization_config"]["weight_block_size"]);
    let Some(size) = sizes.into_iter().find(|size| !size.is_null()) else { return Ok(None) };
    let lengths = size.as_array().map(Vec::as_slice).unwrap_or_default();
    let length = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|&length| length > 0);
    match lengths {
        [rows, columns] => length(rows).zip(length(columns)).map(|(rows, columns)| Some([rows, columns])),
        _ => None,
    }
    .ok_or_else(|| {
        format!(
            "weight_block_size: expected two numbers above 0, got {}",
            shortened(&size.to_string(), MAX_QUOTE)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_or_refused() {
        let size = |text: &str| of_text(text.as_bytes());
        assert_eq!(size(r#"{"quantization_config": {"weight_block_size": [128, 64]}}"#), Ok(Some([128, 64])));
        assert_eq!(
            size(r#"{"text_config": {"quantization_config": {"weight_block_size": [1, 2]}}}"#),
            Ok(Some([1, 2]))
        );
        for nothing in [
            "{}",
            "[]",
            "3",
            r#"{"quantization_config": null}"#,
            r#"{"quantization_config": {"weight_block_size": null}}"#,
        ] {
            assert_eq!(size(nothing), Ok(None), "{nothing}");
        }
        for bad in
            ["[0, 128]", "[128]", "[-1, 128]", "[1.5, 2]", "128", "[1e30, 1]", "[128, 128, 1]", "\"128\""]
        {
            let reason =
                size(&format!(r#"{{"quantization_config": {{"weight_block_size": {bad}}}}}"#)).unwrap_err();
            assert!(reason.starts_with("weight_block_size: expected two numbers above 0, got "), "{reason}");
        }
        assert!(size("{").unwrap_err().starts_with("not JSON: "));
    }
}
