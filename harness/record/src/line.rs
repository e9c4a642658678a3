//! Checksummed lines: how `rounds.jsonl` survives a kill at any instant.
//!
//! A line is `<crc32 of the JSON, 8 hex digits> <JSON>\n`. A line without its newline, or whose checksum differs, is torn:
//! it and all after it are not trusted.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes one record as a checksummed line, newline included.
///
/// # Errors
/// When the value cannot be written as JSON (a non-string map key).
pub fn encode<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// What a file of checksummed lines held.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The intact records, in order.
    pub records: Vec<T>,
    /// How many bytes from the start are intact; what follows is torn and may be cut.
    pub intact_bytes: usize,
    /// Why reading stopped before the end, in words, if it did.
    pub torn: Option<String>,
}

/// Reads lines up to the first that is not intact.
#[must_use]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Decoded<T> {
    let mut decoded = Decoded { records: Vec::new(), intact_bytes: 0, torn: None };
    let mut number = 1;
    while decoded.intact_bytes < bytes.len() {
        let rest = &bytes[decoded.intact_bytes..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            decoded.torn = Some(format!("line {number} has no end: the writer was killed while writing it"));
            return decoded;
        };
        match decode_line(&rest[..end]) {
            Ok(record) => decoded.records.push(record),
            Err(why) => {
                decoded.torn = Some(format!("line {number} {why}"));
                return decoded;
            }
        }
        decoded.intact_bytes += end + 1;
        number += 1;
    }
    decoded
}

fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
    let (checksum, json) = text.split_once(' ').ok_or("has no checksum")?;
    if checksum != format!("{:08x}", crc32fast::hash(json.as_bytes())) {
        return Err("does not match its checksum".to_owned());
    }
    serde_json::from_str(json).map_err(|error| format!("is not a record this version knows: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_keeps_exactly_the_whole_lines() {
        let text: String = (0..3).map(|i| encode(&format!("record {i}")).unwrap()).collect();
        let ends: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1).collect();
        for cut in 0..=text.len() {
            let decoded: Decoded<String> = decode(&text.as_bytes()[..cut]);
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(decoded.records.len(), whole, "cut at {cut}");
            assert_eq!(decoded.torn.is_some(), cut != 0 && !ends.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut bytes = encode(&"record".to_owned()).unwrap().into_bytes();
        bytes[12] ^= 1;
        let decoded: Decoded<String> = decode(&bytes);
        assert!(decoded.records.is_empty());
        assert_eq!(decoded.torn.as_deref(), Some("line 1 does not match its checksum"));
    }
}
