//! Replies on their way out, sent in bounded pieces.

use super::limits::{COPIED_REPLY_BYTES, RETAINED_BYTES, SEND_BYTES};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes to send: long replies in their own buffers first, then the shared one.
#[derive(Debug, Default)]
pub(super) struct Output {
    sealed: VecDeque<Piece>,
    sealed_bytes: usize,
    open: Piece,
    /// What was given to the stream may still be in it, if it encrypts.
    in_stream: bool,
}

/// Bytes of which some are sent. What it ever made room for stays initialised, so that room costs no zeroes.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    end: usize,
}

impl Piece {
    fn len(&self) -> usize {
        self.end - self.sent
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        if self.sent == self.end {
            (self.sent, self.end) = (0, 0);
            if self.bytes.len() > RETAINED_BYTES {
                self.bytes = Vec::new();
            }
        }
        if self.end + length > self.bytes.len() {
            self.make_room(length);
        }
        let start = self.end;
        self.end += length;
        &mut self.bytes[start..self.end]
    }

    fn make_room(&mut self, length: usize) {
        let waiting = self.len();
        // Whoever is moved to the front gets room enough not to be moved again soon.
        let wanted = (waiting + length) * if self.sent > 0 { 2 } else { 1 };
        self.bytes.copy_within(self.sent..self.end, 0);
        (self.sent, self.end) = (0, waiting);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
    }
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.sealed_bytes + self.open.len()
    }

    /// Whether everything is on its way.
    pub(super) fn is_sent(&self) -> bool {
        self.len() == 0 && !self.in_stream
    }

    /// Room for a reply of this length behind the others. It holds bytes of earlier replies of this connection:
    /// all of it has to be written, or [given back](Self::give_back).
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        self.open.room(length)
    }

    /// Takes the last room of this length away again.
    pub(super) fn give_back(&mut self, length: usize) {
        self.open.end -= length;
    }

    /// Appends a whole reply that has its own buffer.
    pub(super) fn push(&mut self, reply: Vec<u8>) {
        if reply.len() <= COPIED_REPLY_BYTES {
            self.room(reply.len()).copy_from_slice(&reply);
            return;
        }
        if self.open.len() > 0 {
            let before = std::mem::take(&mut self.open);
            self.seal(before);
        }
        self.seal(Piece {
            end: reply.len(),
            bytes: reply,
            sent: 0,
        });
    }

    fn seal(&mut self, piece: Piece) {
        self.sealed_bytes += piece.len();
        self.sealed.push_back(piece);
    }

    /// Sends until everything is sent (`Ready`) or the stream takes no more.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let sealed = !self.sealed.is_empty();
            let front = self.sealed.front_mut().unwrap_or(&mut self.open);
            let piece = &front.bytes[front.sent..front.end.min(front.sent + SEND_BYTES)];
            let sent = ready!(Pin::new(&mut *stream).poll_write(context, piece))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            front.sent += sent;
            self.in_stream = true;
            if sealed {
                self.sealed_bytes -= sent;
                self.sealed.pop_front_if(|front| front.len() == 0);
            }
        }
        if self.in_stream {
            ready!(Pin::new(stream).poll_flush(context))?;
            self.in_stream = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::task::Waker;

    /// Takes some bytes now and then.
    struct Slow {
        taken: Vec<u8>,
        takes: Vec<usize>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let Some(count) = self.takes.pop() else {
                return Poll::Pending;
            };
            let count = count.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn everything_is_sent_once_and_in_order(
            steps in prop::collection::vec((0_u8..4, 1_usize..70_000, 1_usize..90_000), 1..60)
        ) {
            let mut context = Context::from_waker(Waker::noop());
            let mut slow = Slow { taken: Vec::new(), takes: Vec::new() };
            let (mut output, mut expected) = (Output::default(), Vec::new());
            for (number, (what, length, takes)) in steps.into_iter().enumerate() {
                let reply = vec![u8::try_from(number).unwrap(); length];
                match what {
                    0 => output.push(reply.clone()),
                    1 => output.room(length).copy_from_slice(&reply),
                    2 => {
                        output.room(length).fill(255);
                        output.give_back(length);
                        output.room(length).copy_from_slice(&reply);
                    }
                    _ => {
                        slow.takes.push(takes);
                        let _ = output.poll_send(&mut slow, &mut context).map(Result::unwrap);
                        continue;
                    }
                }
                expected.extend_from_slice(&reply);
                prop_assert_eq!(output.len() + slow.taken.len(), expected.len());
            }
            slow.takes = vec![usize::MAX; 200];
            prop_assert!(output.poll_send(&mut slow, &mut context).is_ready());
            prop_assert!(slow.taken == expected);
        }
    }

    /// Keeps what it is given until it is flushed, as a stream that encrypts does, and takes a second attempt for that.
    #[derive(Default)]
    struct Hoards {
        kept: Vec<u8>,
        passed: Vec<u8>,
        asked: u32,
    }

    impl AsyncWrite for Hoards {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.kept.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.asked += 1;
            if self.asked.is_multiple_of(2) {
                let kept = std::mem::take(&mut self.kept);
                self.passed.extend_from_slice(&kept);
                return Poll::Ready(Ok(()));
            }
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn nothing_is_left_in_a_stream_that_keeps_what_it_is_given() {
        let (mut output, mut stream) = (Output::default(), Hoards::default());
        let mut context = Context::from_waker(Waker::noop());
        for (round, reply) in [vec![1; 40], vec![2; COPIED_REPLY_BYTES + 1]]
            .into_iter()
            .enumerate()
        {
            let before = stream.passed.len();
            output.push(reply.clone());
            assert!(
                output.poll_send(&mut stream, &mut context).is_pending(),
                "{round}"
            );
            assert!(output.len() == 0 && !output.is_sent());
            assert!(output.poll_send(&mut stream, &mut context).is_ready(), "{round}");
            assert!(output.is_sent() && stream.passed[before..] == reply);
        }
        let asked = stream.asked;
        assert!(output.poll_send(&mut stream, &mut context).is_ready());
        assert_eq!(stream.asked, asked, "there is nothing to flush");
    }
}
