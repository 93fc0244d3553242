//! Limits on what is read of a provider's answer.

/// Maximum size of an error's body that is read, in bytes.
pub const MAX_ERROR_BYTES: usize = 256 * 1024;

/// Limits on reading a streamed answer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of one event, its unfinished line included. The largest honest ones
    /// carry an image as base64; beyond this the provider is broken or
    /// hostile.
    pub event: usize,
    /// In which no text and no thought is.
    pub without_text: usize,
}

impl Limits {
    /// For the providers that the configuration names.
    pub const TRUSTED: Self = Self { event: 16 * 1024 * 1024, without_text: 64 * 1024 * 1024 };
    /// For servers that users choose.
    pub const GUARDED: Self = Self { event: 4 * 1024 * 1024, without_text: 4 * 1024 * 1024 };
}
