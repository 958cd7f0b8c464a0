//! Answers of many messages, in pages that fit.

use prost::Message;

/// Encoded bytes after which a page is sent; one message, which may carry a condition of 64 KiB, can pass it.
const PAGE_BYTES: usize = 512 << 10;

/// The page that is being filled.
#[derive(Debug)]
pub struct Page<T> {
    messages: Vec<T>,
    bytes: usize,
}

impl<T> Default for Page<T> {
    fn default() -> Page<T> {
        Page {
            messages: Vec::new(),
            bytes: 0,
        }
    }
}

impl<T: Message> Page<T> {
    /// Puts a message into it; the page, if that has filled it.
    pub fn push(&mut self, message: T) -> Option<Vec<T>> {
        self.bytes += message.encoded_len();
        self.messages.push(message);
        if self.bytes < PAGE_BYTES {
            return None;
        }
        self.bytes = 0;
        Some(std::mem::take(&mut self.messages))
    }

    /// The last page, which may be empty.
    pub fn rest(self) -> Vec<T> {
        self.messages
    }
}
