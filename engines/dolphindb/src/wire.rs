//! Reading from the wire: small numbers, texts and long runs of bytes, each with a bound.
//!
//! The other side may be broken or hostile: no length that it names is believed before its bytes have come. What is kept of an answer is paid for
//! from an allowance, and memory grows with the bytes that arrive, at most to twice as many.

use std::time::Duration;

use arrow::buffer::MutableBuffer;
use strait_common::{Error, Kind, OrError, Result};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is read at once from the other side.
const BUFFER_BYTES: usize = 64 << 10;
/// What a run of bytes grows by at first.
const STEP_BYTES: usize = 256 << 10;
/// The longest name of a table or column, tag or session.
pub(crate) const NAME_BYTES_MAX: usize = 64 << 10;

/// One direction of a connection, or bytes in memory.
#[derive(Debug)]
pub(crate) struct Incoming<R> {
    from: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// What may still be kept of this answer, in bytes.
    allowance: u64,
    allowed: u64,
    /// How long the next bytes are waited for.
    patience: Option<Duration>,
    /// What it means that there are no more bytes.
    ended: Kind,
}

/// Texts that follow each other, without what ends them.
pub(crate) struct Texts {
    /// Where each begins, and the end of the last.
    pub(crate) offsets: Vec<i32>,
    pub(crate) bytes: Vec<u8>,
}

impl<'a> Incoming<&'a [u8]> {
    /// Bytes in memory, of which at most `allowance` are kept.
    pub(crate) fn of_bytes(bytes: &'a [u8], allowance: u64) -> Incoming<&'a [u8]> {
        // A bigger buffer than there are bytes would only be cleared for nothing.
        Incoming::with_buffer(
            bytes,
            BUFFER_BYTES.min(bytes.len().max(1)),
            allowance,
            Kind::Corrupt,
        )
    }

    /// Whether all has been read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.start == self.end && self.from.is_empty()
    }
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// A connection, whose end in the middle of an answer means that it was lost.
    pub(crate) fn of_connection(from: R, patience: Duration) -> Incoming<R> {
        let mut incoming = Incoming::with_buffer(from, BUFFER_BYTES, 0, Kind::Unavailable);
        incoming.patience = Some(patience);
        incoming
    }

    fn with_buffer(from: R, bytes: usize, allowance: u64, ended: Kind) -> Incoming<R> {
        Incoming {
            from,
            buffer: vec![0; bytes].into_boxed_slice(),
            start: 0,
            end: 0,
            allowance,
            allowed: allowance,
            patience: None,
            ended,
        }
    }

    /// The other direction.
    pub(crate) fn connection(&mut self) -> &mut R {
        &mut self.from
    }

    /// How long the next bytes are waited for from now on.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Another answer begins, of which so many bytes may be kept.
    pub(crate) fn allow(&mut self, bytes: u64) {
        self.allowance = bytes;
        self.allowed = bytes;
    }

    /// What may still be kept.
    pub(crate) fn allowance(&self) -> u64 {
        self.allowance
    }

    /// Pays for bytes that are kept.
    ///
    /// # Errors
    /// `Corrupt` if the answer is larger than what it may be.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<()> {
        match self.allowance.checked_sub(bytes) {
            Some(left) => {
                self.allowance = left;
                Ok(())
            }
            None => Err(Error::corrupt(format!(
                "an answer that takes more than the {} bytes which one may (answer_max)",
                self.allowed
            ))),
        }
    }

    /// Whether bytes have come that nobody asked for.
    pub(crate) fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// At least one byte more in the buffer, which was empty.
    async fn fill(&mut self) -> Result<()> {
        self.start = 0;
        self.end = 0;
        self.end = read_some(&mut self.from, &mut self.buffer, self.patience, self.ended).await?;
        Ok(())
    }

    pub(crate) async fn u8(&mut self) -> Result<u8> {
        if self.start == self.end {
            self.fill().await?;
        }
        self.start += 1;
        Ok(self.buffer[self.start - 1])
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        if self.end - self.start >= N {
            bytes.copy_from_slice(&self.buffer[self.start..self.start + N]);
            self.start += N;
            return Ok(bytes);
        }
        self.exactly(&mut bytes).await?;
        Ok(bytes)
    }

    pub(crate) async fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array().await?))
    }

    pub(crate) async fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_le_bytes(self.array().await?))
    }

    pub(crate) async fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array().await?))
    }

    /// A number of things, which is not negative.
    ///
    /// # Errors
    /// `Corrupt` if it is.
    pub(crate) async fn count(&mut self, what: &str) -> Result<usize> {
        let count = self.i32().await?;
        usize::try_from(count).or_error(Kind::Corrupt, format!("{count} {what}"))
    }

    async fn exactly(&mut self, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            if self.start == self.end {
                if into.len() >= self.buffer.len() {
                    // Past the buffer: long runs are copied once.
                    let got = read_some(&mut self.from, into, self.patience, self.ended).await?;
                    into = &mut into[got..];
                    continue;
                }
                self.fill().await?;
            }
            let got = into.len().min(self.end - self.start);
            into[..got].copy_from_slice(&self.buffer[self.start..self.start + got]);
            self.start += got;
            into = &mut into[got..];
        }
        Ok(())
    }

    /// Adds so many bytes to `run`, and pays for them.
    pub(crate) async fn extend(&mut self, run: &mut MutableBuffer, bytes: usize) -> Result<()> {
        self.charge(bytes as u64)?;
        let to = run
            .len()
            .checked_add(bytes)
            .ok_or_else(|| Error::corrupt(format!("{bytes} bytes at once")))?;
        while run.len() < to {
            let from = run.len();
            let step = (to - from).min(from.max(STEP_BYTES));
            run.resize(from + step, 0);
            self.exactly(&mut run.as_slice_mut()[from..]).await?;
        }
        Ok(())
    }

    /// So many bytes, paid for.
    pub(crate) async fn bytes(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut run = Vec::new();
        self.extend_vec(&mut run, bytes).await?;
        Ok(run)
    }

    /// Adds so many bytes to `run`, and pays for them.
    pub(crate) async fn extend_vec(&mut self, run: &mut Vec<u8>, bytes: usize) -> Result<()> {
        self.charge(bytes as u64)?;
        self.pass(run, bytes).await
    }

    /// Adds so many bytes to `run` that are not kept, and so cost nothing.
    pub(crate) async fn pass(&mut self, run: &mut Vec<u8>, bytes: usize) -> Result<()> {
        let to = run.len().saturating_add(bytes);
        while run.len() < to {
            let from = run.len();
            let step = (to - from).min(from.max(STEP_BYTES));
            run.resize(from + step, 0);
            self.exactly(&mut run[from..]).await?;
        }
        Ok(())
    }

    /// The bytes before the next `end`, of which there are at most `most`; that one is read too. They are not paid for.
    async fn until(&mut self, end: u8, most: usize, what: &str) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            if self.start == self.end {
                self.fill().await?;
            }
            let ready = &self.buffer[self.start..self.end];
            let found = memchr::memchr(end, ready);
            let part = found.unwrap_or(ready.len());
            if text.len() + part > most {
                return Err(Error::corrupt(format!("{what} of more than {most} bytes")));
            }
            text.extend_from_slice(&ready[..part]);
            self.start += part + usize::from(found.is_some());
            if found.is_some() {
                return Ok(text);
            }
        }
    }

    /// A text that ends with a zero byte.
    ///
    /// # Errors
    /// `Corrupt` if it is longer than `most` bytes, or not UTF-8.
    pub(crate) async fn text(&mut self, most: usize, what: &str) -> Result<String> {
        let text = self.until(0, most, what).await?;
        String::from_utf8(text).or_error(Kind::Corrupt, what)
    }

    /// A line, without its end.
    ///
    /// # Errors
    /// `Corrupt` if it is longer than `most` bytes.
    pub(crate) async fn line(&mut self, most: usize, what: &str) -> Result<String> {
        let line = self.until(b'\n', most, what).await?;
        // What a server says of an error is for people: a bad byte in it must not hide it.
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// So many texts, each of which ends with a zero byte, paid for.
    ///
    /// # Errors
    /// `Corrupt` if they take more than the allowance, or more than 2 GiB.
    pub(crate) async fn texts(&mut self, count: usize) -> Result<Texts> {
        let mut offsets = Vec::with_capacity((count + 1).min(STEP_BYTES));
        let mut bytes = Vec::new();
        offsets.push(0);
        while offsets.len() <= count {
            if self.start == self.end {
                self.fill().await?;
            }
            let before = bytes.len() + offsets.len() * 4;
            let ready = &self.buffer[self.start..self.end];
            let mut from = 0;
            for at in memchr::memchr_iter(0, ready).take(count + 1 - offsets.len()) {
                bytes.extend_from_slice(&ready[from..at]);
                from = at + 1;
                let end = i32::try_from(bytes.len());
                offsets.push(end.or_error(Kind::Corrupt, "texts of more than 2 GiB")?);
            }
            if offsets.len() <= count {
                // The head of a text whose end has not come.
                bytes.extend_from_slice(&ready[from..]);
                from = ready.len();
            }
            self.start += from;
            let after = bytes.len() + offsets.len() * 4;
            self.charge((after - before) as u64)?;
        }
        Ok(Texts { offsets, bytes })
    }
}

/// Reads at least one byte, or says that there is none.
async fn read_some<R: AsyncRead + Unpin>(
    from: &mut R,
    into: &mut [u8],
    patience: Option<Duration>,
    ended: Kind,
) -> Result<usize> {
    let read = from.read(into);
    let read = match patience {
        None => read.await,
        Some(patience) => match tokio::time::timeout(patience, read).await {
            Ok(read) => read,
            Err(_) => {
                return Err(Error::unavailable(format!(
                    "the server has sent nothing for {} s",
                    patience.as_secs()
                )));
            }
        },
    };
    match read.or_error(Kind::Unavailable, "reading from the server")? {
        0 => Err(Error::new(ended, "it ended in the middle of an answer")),
        got => Ok(got),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => output,
            std::task::Poll::Pending => panic!("bytes in memory were waited for"),
        }
    }

    #[test]
    fn texts_across_the_ends_of_the_buffer_come_whole() {
        let texts: Vec<String> = (0..50_000)
            .map(|at| "é".repeat(at % 7) + &at.to_string())
            .collect();
        let mut bytes: Vec<u8> = texts
            .iter()
            .flat_map(|text| [text.as_bytes(), &[0]].concat())
            .collect();
        bytes.push(7);
        let mut incoming = Incoming::of_bytes(&bytes, 10 << 20);
        let read = now(incoming.texts(texts.len())).unwrap();
        assert_eq!(read.offsets.len(), texts.len() + 1);
        for (at, text) in texts.iter().enumerate() {
            let range = read.offsets[at] as usize..read.offsets[at + 1] as usize;
            assert_eq!(&read.bytes[range], text.as_bytes());
        }
        assert_eq!(now(incoming.u8()).unwrap(), 7);
        assert!(incoming.is_at_end());
    }

    #[test]
    fn a_length_that_is_not_there_is_corrupt_and_takes_no_memory() {
        let mut incoming = Incoming::of_bytes(&[1, 2, 3], u64::MAX);
        let mut run = MutableBuffer::new(0);
        let error = now(incoming.extend(&mut run, 1 << 40)).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(run.capacity() <= 2 * STEP_BYTES, "{} bytes", run.capacity());
        let mut incoming = Incoming::of_bytes(&[0; 100], 10);
        assert_eq!(now(incoming.bytes(11)).unwrap_err().kind(), Kind::Corrupt);
        let mut incoming = Incoming::of_bytes(b"no end", 1000);
        assert_eq!(
            now(incoming.text(5, "a name")).unwrap_err().kind(),
            Kind::Corrupt
        );
    }
}
