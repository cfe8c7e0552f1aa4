//! The fake CUDA driver as a file's bytes (`docs/fake-driver.md`). The program writes it; engines take it from there.

/// `libcuda.so.1`.
///
/// # Errors
/// Why this build has none.
pub fn library() -> Result<&'static [u8], &'static str> {
    #[cfg(has_driver)]
    return Ok(include_bytes!(concat!(env!("OUT_DIR"), "/driver/libcuda.so.1")));
    #[cfg(not(has_driver))]
    Err(match option_env!("DK_NO_DRIVER_REASON") {
        Some(reason) => reason,
        None => "unknown",
    })
}
