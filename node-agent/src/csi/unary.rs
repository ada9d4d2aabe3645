//! The smallest server of unary gRPC calls, for kubelet's side of the registration.
//!
//! kubelet's plugin manager sends the path of the socket, percent-encoded, as `:authority` (its CSI client says `localhost`; this
//! one was forgotten, seen in Kubernetes 1.36). The h2 crate resets such a stream with PROTOCOL_ERROR before any service sees it. So
//! headers are not decoded here at all: what was asked is told by the message. Refuses frames and messages that are not small.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tracing::debug;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest frame without a word about it in SETTINGS.
const LARGEST: usize = 16_384;
/// gRPC puts a flag and a length before the message.
const PREFIX: usize = 5;

/// Kinds of frames (RFC 9113, section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Answers a message with a message.
pub(super) type Answer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// Serves until dropped, and all connections end with it.
///
/// # Errors
/// When the listener fails.
pub(super) async fn serve(listener: UnixListener, answer: Answer) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        let answer = answer.clone();
        connections.spawn(async move {
            if let Err(error) = converse(stream, &answer).await {
                debug!(%error, "a connection for the registration ended");
            }
        });
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

async fn next(stream: &mut UnixStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, d, e, f, g] = head;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(io::Error::other)?;
    if length > LARGEST {
        return Err(garbled("a frame that is too large"));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
        payload,
    })
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

async fn converse(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(garbled("no HTTP/2"));
    }
    stream.write_all(&frame(kind::SETTINGS, 0, 0, &[])?).await?;
    let mut bodies: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    loop {
        let got = next(&mut stream).await?;
        match got.kind {
            kind::SETTINGS if got.flags & ACK == 0 => {
                stream.write_all(&frame(kind::SETTINGS, ACK, 0, &[])?).await?;
            }
            kind::PING if got.flags & ACK == 0 => {
                stream.write_all(&frame(kind::PING, ACK, 0, &got.payload)?).await?;
            }
            kind::HEADERS if got.flags & END_STREAM != 0 => {
                bodies.remove(&got.stream);
                stream.write_all(&reply(got.stream, &answer(&[]))?).await?;
            }
            kind::RST_STREAM => {
                bodies.remove(&got.stream);
            }
            kind::DATA => {
                if !got.payload.is_empty() {
                    // What was read may be sent again, or a long connection would stop.
                    let read = u32::try_from(got.payload.len()).map_err(io::Error::other)?;
                    stream
                        .write_all(&frame(kind::WINDOW_UPDATE, 0, 0, &read.to_be_bytes())?)
                        .await?;
                }
                let ended = got.flags & END_STREAM != 0;
                let body = bodies.entry(got.stream).or_default();
                body.extend(unpadded(&got)?);
                if body.len() > LARGEST {
                    return Err(garbled("a message that is too large"));
                }
                if ended {
                    let body = bodies.remove(&got.stream).unwrap_or_default();
                    let message = body.get(PREFIX..).unwrap_or_default();
                    stream.write_all(&reply(got.stream, &answer(message))?).await?;
                }
            }
            _ => {}
        }
    }
}

fn unpadded(frame: &Frame) -> io::Result<&[u8]> {
    if frame.flags & PADDED == 0 {
        return Ok(&frame.payload);
    }
    let (padding, rest) = frame
        .payload
        .split_first()
        .ok_or_else(|| garbled("padding without a length"))?;
    let end = rest.len().checked_sub(usize::from(*padding));
    end.and_then(|end| rest.get(..end))
        .ok_or_else(|| garbled("more padding than frame"))
}

/// Headers, message, trailers. Header fields are literals without index (RFC 7541, section 6.2.2), so no state is kept.
fn reply(stream: u32, message: &[u8]) -> io::Result<Vec<u8>> {
    // Index 8 is `:status: 200`; 31 is the name `content-type`.
    let mut headers = vec![0x88, 0x0f, 0x10, 16];
    headers.extend(b"application/grpc");
    let mut trailers = vec![0x00, 11];
    trailers.extend(b"grpc-status");
    trailers.extend([1, b'0']);
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes());
    body.extend(message);
    let mut bytes = frame(kind::HEADERS, END_HEADERS, stream, &headers)?;
    bytes.extend(frame(kind::DATA, 0, stream, &body)?);
    bytes.extend(frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &trailers)?);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HEADERS of kubelet 1.36 with `:authority: %2Fvar%2F..`, which h2 refuses; ours does not look at them.
    #[tokio::test]
    async fn headers_are_not_judged_and_padding_is_no_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let served = tokio::spawn(serve(listener, Arc::new(|message: &[u8]| message.to_vec())));
        let mut client = UnixStream::connect(&path).await.unwrap();
        let mut headers = vec![0x01, 9];
        headers.extend(b"%2Fvar%2F");
        let mut data = vec![2, 0, 0, 0, 0, 2];
        data.extend(b"hi\0\0");
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(kind::SETTINGS, 0, 0, &[]).unwrap());
        bytes.extend(frame(kind::HEADERS, END_HEADERS, 1, &headers).unwrap());
        bytes.extend(frame(kind::DATA, END_STREAM | PADDED, 1, &data).unwrap());
        client.write_all(&bytes).await.unwrap();
        loop {
            let got = next(&mut client).await.unwrap();
            if got.kind == kind::DATA {
                assert_eq!(got.payload, [0, 0, 0, 0, 2, b'h', b'i']);
                break;
            }
        }
        let end = next(&mut client).await.unwrap();
        assert_eq!((end.kind, end.flags), (kind::HEADERS, END_HEADERS | END_STREAM));
        served.abort();
    }
}
