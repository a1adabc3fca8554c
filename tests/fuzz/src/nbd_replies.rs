//! What an NBD server says, taken apart.

use farside_protocol::nbd::{
    EXTENDED_REPLY_MAGIC, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use std::collections::HashMap;

/// What a server said, taken from the front.
pub(crate) struct Out<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Out<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?
            .first_chunk()
            .map(|field| u32::from_be_bytes(*field))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?
            .first_chunk()
            .map(|field| u64::from_be_bytes(*field))
    }

    /// Option and type of a reply.
    pub(crate) fn option_reply(&mut self) -> Option<(u32, u32)> {
        assert_eq!(self.u64()?, OPTION_REPLY_MAGIC);
        let (code, kind, length) = (self.u32()?, self.u32()?, self.u32()?);
        self.take(length as usize)?;
        Some((code, kind))
    }

    /// The cookie of a reply that fits its request.
    pub(crate) fn reply(&mut self, requests: &HashMap<u64, (u16, u64)>) -> Option<u64> {
        if self.rest.first_chunk() == Some(&SIMPLE_REPLY_MAGIC.to_be_bytes()) {
            self.u32()?;
            let (error, cookie) = (self.u32()?, self.u64()?);
            let (command, length) = *requests.get(&cookie).expect("a reply to a request");
            if command == 0 && error == 0 {
                self.take(usize::try_from(length).ok()?)?;
            }
            return Some(cookie);
        }
        let mut told = 0;
        loop {
            let chunk = self.chunk()?;
            let (command, wanted) = *requests.get(&chunk.cookie).expect("a reply to a request");
            match chunk.kind {
                0x8001 => return Some(chunk.cookie),
                0 => assert!(chunk.payload.is_empty() && chunk.last),
                1 | 2 => assert_eq!(command, 0, "only reads are answered with data"),
                5 | 6 => assert_eq!(command, 7, "only queries are answered with the block status"),
                kind => panic!("a chunk of type {kind}"),
            }
            told += chunk.told();
            if chunk.last {
                assert!(
                    command != 0 || told == wanted,
                    "{told} of {wanted} bytes were told"
                );
                assert!(chunk.kind < 5 || (told > 0 && told <= wanted.max(told.min(8))));
                return Some(chunk.cookie);
            }
        }
    }

    fn chunk(&mut self) -> Option<Chunk<'a>> {
        let magic = self.u32()?;
        let extended = magic == EXTENDED_REPLY_MAGIC;
        assert!(
            extended || magic == STRUCTURED_REPLY_MAGIC,
            "a reply begins with its magic"
        );
        let kinds = self.take(4)?;
        let cookie = self.u64()?;
        let length = if extended {
            self.u64()?;
            self.u64()?
        } else {
            u64::from(self.u32()?)
        };
        assert!(kinds[0] == 0 && kinds[1] <= 1, "flags {:?}", &kinds[..2]);
        Some(Chunk {
            last: kinds[1] == 1,
            kind: u16::from_be_bytes([kinds[2], kinds[3]]),
            cookie,
            payload: self.take(usize::try_from(length).ok()?)?,
        })
    }
}

struct Chunk<'a> {
    last: bool,
    kind: u16,
    cookie: u64,
    payload: &'a [u8],
}

impl Chunk<'_> {
    /// Bytes of the disk that it is about.
    fn told(&self) -> u64 {
        let mut fields = Out { rest: self.payload };
        match self.kind {
            1 => self.payload.len() as u64 - 8,
            2 => {
                assert_eq!(self.payload.len(), 12);
                fields.u64();
                u64::from(fields.u32().expect("the size of a hole"))
            }
            5 => {
                assert_eq!(fields.u32(), Some(1), "the id of the context");
                let extents = fields.rest.as_chunks::<8>().0;
                assert_eq!(extents.len() * 8, fields.rest.len());
                let lengths = extents
                    .iter()
                    .map(|[a, b, c, d, ..]| u32::from_be_bytes([*a, *b, *c, *d]));
                lengths.map(u64::from).sum()
            }
            6 => {
                assert_eq!(fields.u32(), Some(1), "the id of the context");
                let count = fields.u32().expect("the number of extents") as usize;
                let extents = fields.rest.as_chunks::<16>().0;
                assert_eq!(extents.len(), count);
                assert_eq!(count * 16, fields.rest.len());
                let lengths = extents.iter().filter_map(|extent| extent.first_chunk());
                lengths.map(|length| u64::from_be_bytes(*length)).sum()
            }
            _ => 0,
        }
    }
}
