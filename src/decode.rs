//! Undoes the compression of a response body, chunk by chunk.
//!
//! We ask upstreams for `identity`; what comes compressed all the same must be read, or a secret
//! would pass in it. Every chunk gives back at once all that it decides, so events are not delayed;
//! what it may expand to is bounded, and anything odd (broken, cut short, followed by more) is an
//! error, since a body that we cannot read must not pass.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::BytesMut;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, InBuffer, Operation as _, OutBuffer};

use crate::saturate::SaturatingFrom as _;

/// Number of bytes decoded between checks of the bounds.
const STEP_BYTES: usize = 64 * 1024;
/// Largest zstd window, 8 MiB: what RFC 9659 lets a server use.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Bounds of a body's expansion.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bound of the whole body; `None` for streams.
    pub total_bytes: Option<u64>,
    /// From one chunk.
    pub chunk_bytes: u64,
    /// Bytes out for each byte in, once [`Bounds::GRACE_BYTES`] have come out.
    pub ratio: u64,
}

impl Bounds {
    /// Small bodies may expand as they like.
    pub const GRACE_BYTES: u64 = 1024 * 1024;

    /// A body of at most `total_bytes`.
    pub fn body(total_bytes: u64) -> Self {
        Self { total_bytes: Some(total_bytes), chunk_bytes: total_bytes, ratio: 256 }
    }

    /// A stream without end whose chunks give at most `chunk_bytes`.
    pub fn stream(chunk_bytes: u64) -> Self {
        Self { total_bytes: None, chunk_bytes, ratio: 256 }
    }
}

/// Reason why a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("compressed body is broken")]
    Broken,
    #[error("compressed body ends too early")]
    Truncated,
    #[error("compressed body is followed by other data")]
    Trailing,
    #[error("compressed body expands too far")]
    TooLarge,
}

/// Decodes one body.
pub struct Decoder {
    coding: Coding,
    bounds: Bounds,
    taken_bytes: u64,
    given_bytes: u64,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({} bytes in, {} bytes out)", self.taken_bytes, self.given_bytes)
    }
}

enum Coding {
    Gzip {
        inflate: Decompress,
        between: bool,
    },
    /// `deflate` before it is clear whether it has the zlib header that it should have.
    DeflateHead {
        first: Option<u8>,
    },
    Deflate {
        inflate: Decompress,
        ended: bool,
    },
    Brotli {
        state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
        ended: bool,
    },
    Zstd {
        decoder: zstd::stream::raw::Decoder<'static>,
        between: bool,
    },
}

/// Bytes that one step took and gave.
struct Progress {
    taken: usize,
    given: usize,
}

impl Decoder {
    /// A decoder for one `Content-Encoding`; `None` for those we do not know, and for several.
    pub fn for_coding(coding: &str, bounds: Bounds) -> Option<Self> {
        let coding = match coding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Coding::Gzip { inflate: gzip(), between: true },
            "deflate" => Coding::DeflateHead { first: None },
            "br" => {
                let alloc = StandardAlloc::default;
                let state = BrotliState::new_strict(alloc(), alloc(), alloc());
                Coding::Brotli { state: Box::new(state), ended: false }
            }
            "zstd" => {
                let mut decoder = zstd::stream::raw::Decoder::new().ok()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).ok()?;
                Coding::Zstd { decoder, between: true }
            }
            _ => return None,
        };
        Some(Self { coding, bounds, taken_bytes: 0, given_bytes: 0 })
    }

    /// Appends to `out` all that `chunk` decides.
    pub fn push(&mut self, chunk: &[u8], out: &mut BytesMut) -> Result<(), DecodeError> {
        let mut rest = chunk;
        if let Coding::DeflateHead { first } = &mut self.coding {
            let Some((&byte, behind)) = rest.split_first() else { return Ok(()) };
            let Some(head) = *first else {
                *first = Some(byte);
                self.taken_bytes += 1;
                return self.push(behind, out);
            };
            let inflate = Decompress::new(is_zlib_header(head, byte));
            self.coding = Coding::Deflate { inflate, ended: false };
            self.taken_bytes = 0;
            self.run(&[head], out, 0)?;
        }
        let given_before = self.given_bytes;
        // Each step either takes or gives something, so this ends.
        while !rest.is_empty() {
            let taken = self.run(rest, out, given_before)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The body is over; it must have been whole. A body of no bytes is.
    pub fn finish(&self) -> Result<(), DecodeError> {
        let whole = match &self.coding {
            Coding::Gzip { between, .. } | Coding::Zstd { between, .. } => *between,
            Coding::DeflateHead { first } => first.is_none(),
            Coding::Deflate { ended, .. } | Coding::Brotli { ended, .. } => *ended,
        };
        if whole || self.taken_bytes == 0 { Ok(()) } else { Err(DecodeError::Truncated) }
    }

    /// Decodes from `input` until it is used up or a frame ends.
    fn run(
        &mut self,
        input: &[u8],
        out: &mut BytesMut,
        given_before: u64,
    ) -> Result<usize, DecodeError> {
        let mut taken = 0;
        loop {
            let start = out.len();
            out.resize(start + STEP_BYTES, 0);
            let rest = input.get(taken..).unwrap_or_default();
            let step = self.coding.step(rest, out.get_mut(start..).unwrap_or_default());
            let (given, failed) = match &step {
                Ok(step) => (step.given, None),
                Err(e) => (0, Some(*e)),
            };
            out.truncate(start + given);
            if let Some(error) = failed {
                return Err(error);
            }
            let step_taken = step.map_or(0, |step| step.taken);
            taken += step_taken;
            self.taken_bytes += len(step_taken);
            self.given_bytes += len(given);
            self.check(given_before)?;
            if taken == input.len() && given < STEP_BYTES {
                return Ok(taken);
            }
            if step_taken == 0 && given == 0 {
                return Err(DecodeError::Broken);
            }
        }
    }

    fn check(&self, given_before: u64) -> Result<(), DecodeError> {
        let Bounds { total_bytes, chunk_bytes, ratio } = self.bounds;
        let within = total_bytes.is_none_or(|total| self.given_bytes <= total)
            && self.given_bytes - given_before <= chunk_bytes
            && (self.given_bytes <= Bounds::GRACE_BYTES
                || self.given_bytes <= self.taken_bytes.saturating_mul(ratio));
        if within { Ok(()) } else { Err(DecodeError::TooLarge) }
    }
}

impl Coding {
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Progress, DecodeError> {
        match self {
            Self::Gzip { inflate, between } => {
                if *between && !input.is_empty() {
                    // The next member; what is none fails by its header.
                    *inflate = gzip();
                    *between = false;
                }
                let (step, ended) = inflate_step(inflate, input, out)?;
                *between |= ended;
                Ok(step)
            }
            Self::DeflateHead { .. } => Err(DecodeError::Broken),
            Self::Deflate { ended: true, .. } | Self::Brotli { ended: true, .. } => {
                if input.is_empty() {
                    Ok(Progress { taken: 0, given: 0 })
                } else {
                    Err(DecodeError::Trailing)
                }
            }
            Self::Deflate { inflate, ended } => {
                let (step, done) = inflate_step(inflate, input, out)?;
                *ended = done;
                Ok(step)
            }
            Self::Brotli { state, ended } => brotli_step(state, ended, input, out),
            Self::Zstd { decoder, between } => {
                if input.is_empty() && *between {
                    return Ok(Progress { taken: 0, given: 0 });
                }
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(out);
                let left =
                    decoder.run(&mut from, &mut to).map_err(|_broken| DecodeError::Broken)?;
                *between = left == 0;
                Ok(Progress { taken: from.pos(), given: to.pos() })
            }
        }
    }
}

fn gzip() -> Decompress {
    /// The largest window of deflate, 32 KiB.
    const WINDOW_BITS: u8 = 15;
    Decompress::new_gzip(WINDOW_BITS)
}

/// RFC 1950: method 8, and the two bytes together divisible by 31. Some servers send deflate
/// without the header.
fn is_zlib_header(first: u8, second: u8) -> bool {
    first & 0x0F == 8 && first >> 4 <= 7 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}

fn inflate_step(
    inflate: &mut Decompress,
    input: &[u8],
    out: &mut [u8],
) -> Result<(Progress, bool), DecodeError> {
    let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
    let status = inflate
        .decompress(input, out, FlushDecompress::Sync)
        .map_err(|_broken| DecodeError::Broken)?;
    let size = usize::saturating_from::<u64>;
    let step = Progress {
        taken: size(inflate.total_in() - before_in),
        given: size(inflate.total_out() - before_out),
    };
    Ok((step, matches!(status, Status::StreamEnd)))
}

fn brotli_step(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: &mut bool,
    input: &[u8],
    out: &mut [u8],
) -> Result<Progress, DecodeError> {
    let (mut left_in, mut taken) = (input.len(), 0);
    let (mut left_out, mut given, mut total) = (out.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut left_in,
        &mut taken,
        input,
        &mut left_out,
        &mut given,
        out,
        &mut total,
        state,
    );
    match result {
        BrotliResult::ResultSuccess => *ended = true,
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        BrotliResult::ResultFailure => return Err(DecodeError::Broken),
    }
    Ok(Progress { taken, given })
}

fn len(bytes: usize) -> u64 {
    u64::saturating_from(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::io::Write as _;
    use std::rc::Rc;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    /// Every coding, raw deflate included.
    pub(crate) const CODINGS: &[&str] = &["gzip", "x-gzip", "deflate", "raw deflate", "br", "zstd"];

    /// Something that compresses; `flush` ends a block so that a reader can have all up to here.
    enum Encoder {
        Gzip(GzEncoder<Vec<u8>>),
        Zlib(ZlibEncoder<Vec<u8>>),
        Raw(DeflateEncoder<Vec<u8>>),
        Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
        Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    }

    impl Encoder {
        fn new(coding: &str) -> Self {
            match coding {
                "deflate" => Self::Zlib(ZlibEncoder::new(Vec::new(), Compression::default())),
                "raw deflate" => Self::Raw(DeflateEncoder::new(Vec::new(), Compression::default())),
                "br" => {
                    Self::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22)))
                }
                "zstd" => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap()),
                _ => Self::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            }
        }

        fn writer(&mut self) -> &mut dyn std::io::Write {
            match self {
                Self::Gzip(e) => e,
                Self::Zlib(e) => e,
                Self::Raw(e) => e,
                Self::Brotli(e) => e,
                Self::Zstd(e) => e,
            }
        }

        fn written(&mut self) -> &mut Vec<u8> {
            match self {
                Self::Gzip(e) => e.get_mut(),
                Self::Zlib(e) => e.get_mut(),
                Self::Raw(e) => e.get_mut(),
                Self::Brotli(_) => panic!("brotli does not show what it has written"),
                Self::Zstd(e) => e.get_mut(),
            }
        }

        fn finish(self) -> Vec<u8> {
            match self {
                Self::Gzip(e) => e.finish().unwrap(),
                Self::Zlib(e) => e.finish().unwrap(),
                Self::Raw(e) => e.finish().unwrap(),
                Self::Brotli(e) => e.into_inner(),
                Self::Zstd(e) => e.finish().unwrap(),
            }
        }
    }

    pub(crate) fn compress(coding: &str, body: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(coding);
        encoder.writer().write_all(body).unwrap();
        encoder.finish()
    }

    pub(crate) fn decoder(coding: &str, bounds: Bounds) -> Decoder {
        let coding = if coding == "raw deflate" { "deflate" } else { coding };
        Decoder::for_coding(coding, bounds).unwrap()
    }

    fn decode(coding: &str, chunks: &[&[u8]]) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = decoder(coding, Bounds::body(1 << 24));
        let mut out = BytesMut::new();
        for chunk in chunks {
            decoder.push(chunk, &mut out)?;
        }
        decoder.finish()?;
        Ok(out.to_vec())
    }

    fn text() -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_string().into_bytes())
            .collect()
    }

    #[test]
    fn each_coding_comes_back_in_any_chunks() {
        for coding in CODINGS {
            for body in [&b""[..], b"x", &text()] {
                let packed = compress(coding, body);
                for size in [1, 2, 3, 1000, packed.len()] {
                    let chunks: Vec<&[u8]> = packed.chunks(size).collect();
                    assert_eq!(decode(coding, &chunks).as_deref(), Ok(body), "{coding} by {size}");
                }
            }
            assert_eq!(decode(coding, &[]), Ok(Vec::new()), "{coding} of nothing");
        }
    }

    #[test]
    fn a_body_cut_short_or_followed_by_more_is_refused() {
        for coding in CODINGS {
            let packed = compress(coding, b"hello, hello, hello, this is a body");
            for cut in 1..packed.len() {
                assert!(decode(coding, &[&packed[..cut]]).is_err(), "{coding} cut at {cut}");
            }
            assert!(decode(coding, &[&packed, b"more"]).is_err(), "{coding} with more");
            let long = [&packed[..], b"more"].concat();
            assert!(decode(coding, &[&long]).is_err(), "{coding} with more at once");
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        for coding in ["gzip", "zstd"] {
            let packed = [compress(coding, b"one "), compress(coding, b"two")].concat();
            for size in [1, packed.len()] {
                let chunks: Vec<&[u8]> = packed.chunks(size).collect();
                assert_eq!(decode(coding, &chunks).as_deref(), Ok(&b"one two"[..]), "{coding}");
            }
        }
    }

    #[test]
    fn a_flushed_event_comes_out_with_its_chunk() {
        for coding in ["gzip", "deflate", "raw deflate", "zstd"] {
            let mut encoder = Encoder::new(coding);
            let mut decoder = decoder(coding, Bounds::stream(1 << 20));
            for n in 0..5 {
                let event = format!("data: {n}\n\n");
                encoder.writer().write_all(event.as_bytes()).unwrap();
                encoder.writer().flush().unwrap();
                let chunk = std::mem::take(encoder.written());
                let mut out = BytesMut::new();
                decoder.push(&chunk, &mut out).unwrap();
                assert_eq!(out, event.as_bytes(), "{coding}");
            }
        }
    }

    #[test]
    fn a_flushed_brotli_event_comes_out_with_its_chunk() {
        struct Sink(Rc<RefCell<Vec<u8>>>);
        impl std::io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.borrow_mut().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let shared = Rc::new(RefCell::new(Vec::new()));
        let mut encoder = brotli::CompressorWriter::new(Sink(shared.clone()), 4096, 5, 22);
        let mut decoder = decoder("br", Bounds::stream(1 << 20));
        for n in 0..5 {
            let event = format!("data: {n}\n\n");
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            let chunk = std::mem::take(&mut *shared.borrow_mut());
            let mut out = BytesMut::new();
            decoder.push(&chunk, &mut out).unwrap();
            assert_eq!(out, event.as_bytes());
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_fills_memory() {
        for coding in CODINGS {
            let bomb = compress(coding, &vec![0; 64 << 20]);
            for bounds in [Bounds::body(10 << 20), Bounds::stream(10 << 20)] {
                let mut decoder = decoder(coding, bounds);
                let mut out = BytesMut::new();
                let result = bomb.chunks(4096).try_for_each(|c| decoder.push(c, &mut out));
                assert_eq!(result, Err(DecodeError::TooLarge), "{coding}");
                assert!(out.len() <= (10 << 20) + STEP_BYTES, "{coding}: {}", out.len());
            }
        }
    }

    #[test]
    fn other_codings_are_not_known() {
        for coding in ["", "identity", "gzip, br", "gzip,gzip", "compress", "dcb", "gzip;q=1"] {
            assert!(Decoder::for_coding(coding, Bounds::body(1)).is_none(), "{coding}");
        }
        assert!(Decoder::for_coding(" GZIP ", Bounds::body(1)).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn garbage_never_panics(
            coding in select(CODINGS),
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
            real in any::<bool>(),
        ) {
            if real {
                bytes = compress(coding, &bytes);
            }
            for (at, to) in flips {
                let at = at.index(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = to;
                }
            }
            drop(decode(coding, &[&bytes]));
        }
    }
}
