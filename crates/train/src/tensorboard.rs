//! Scalars for TensorBoard: event files, written by hand.
//!
//! A file is a sequence of records, each `length (u64) | masked crc32c of length | data | masked crc32c of data`,
//! little-endian. The data is an `Event` message, of which four fields are used here.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes one event file. A process that resumes a run writes a file of its own.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// A new event file in `folder`. `unix_secs` is the time now; a run that was resumed after `resumed_step` makes
    /// readers forget what earlier files say about later steps.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be created.
    pub fn create(folder: &Path, unix_secs: f64, resumed_step: Option<u64>) -> Result<Self> {
        let name = format!("events.out.tfevents.{}.hecate.{}", unix_secs as u64, std::process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut writer = Self { file, path };
        let mut event = Message::default();
        event.double(1, unix_secs);
        event.bytes(3, b"brain.Event:2");
        writer.record(&event.0)?;
        if let Some(step) = resumed_step {
            let mut session = Message::default();
            session.varint(1, 1); // SessionLog.status = START
            let mut event = Message::default();
            event.double(1, unix_secs);
            event.varint(2, step + 1);
            event.bytes(7, &session.0);
            writer.record(&event.0)?;
        }
        Ok(writer)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds scalars of one step under their tags.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the cause.
    pub fn scalars(&mut self, unix_secs: f64, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::default();
        event.double(1, unix_secs);
        event.varint(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(data);
        record.extend_from_slice(&masked_crc(data).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io("write", &self.path))
    }
}

/// A protocol-buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u8, wire: u8) {
        self.raw_varint(u64::from(field << 3 | wire));
    }
    fn raw_varint(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.0.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.0.push(x as u8);
    }
    fn varint(&mut self, field: u8, x: u64) {
        self.key(field, 0);
        self.raw_varint(x);
    }
    fn double(&mut self, field: u8, x: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&x.to_le_bytes());
    }
    fn bytes(&mut self, field: u8, x: &[u8]) {
        self.key(field, 2);
        self.raw_varint(x.len() as u64);
        self.0.extend_from_slice(x);
    }
    fn float(&mut self, field: u8, x: f32) {
        self.key(field, 5);
        self.0.extend_from_slice(&x.to_le_bytes());
    }
}

/// The checksum as the format stores it: rotated and offset, so that a checksum of checksums is no fixed point.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, one byte at a time: events are small.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, &b| crc >> 8 ^ TABLE[(crc as u8 ^ b) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The data of each record, with both checksums verified.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = vec![];
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(crc, masked_crc(length).to_le_bytes());
            let (data, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(crc, masked_crc(data).to_le_bytes());
            records.push(data.to_vec());
            bytes = rest;
        }
        records
    }

    /// The fields of a message: numbers as little-endian bytes.
    fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Vec<Vec<u8>>> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut x, mut shift) = (0, 0);
            loop {
                let b = bytes[0];
                *bytes = &bytes[1..];
                x |= u64::from(b & 0x7f) << shift;
                shift += 7;
                if b < 0x80 {
                    return x;
                }
            }
        }
        let mut fields = BTreeMap::<u64, Vec<Vec<u8>>>::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    let x = varint(&mut bytes);
                    fields.entry(key >> 3).or_default().push(x.to_le_bytes().to_vec());
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                wire => panic!("wire type {wire}"),
            };
            let (value, rest) = bytes.split_at(length);
            fields.entry(key >> 3).or_default().push(value.to_vec());
            bytes = rest;
        }
        fields
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn scalars_are_read_back_from_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 1000.5, Some(7)).unwrap();
        writer.scalars(1001.25, 300, &[("train/loss", 2.5), ("train/lr", 1e-3)]).unwrap();
        let events: Vec<_> = records(&std::fs::read(writer.path()).unwrap()).iter().map(|r| fields(r)).collect();
        assert_eq!(events.len(), 3);
        assert_eq!(events[0][&3], [b"brain.Event:2".to_vec()]);
        assert_eq!(events[1][&2], [8u64.to_le_bytes().to_vec()]);
        assert_eq!(fields(&events[1][&7][0])[&1], [1u64.to_le_bytes().to_vec()]);
        assert_eq!(events[2][&1], [1001.25f64.to_le_bytes().to_vec()]);
        assert_eq!(events[2][&2], [300u64.to_le_bytes().to_vec()]);
        let values: Vec<_> = fields(&events[2][&5][0])[&1].iter().map(|v| fields(v)).collect();
        assert_eq!(values[0][&1], [b"train/loss".to_vec()]);
        assert_eq!(values[0][&2], [2.5f32.to_le_bytes().to_vec()]);
        assert_eq!(values[1][&2], [1e-3f32.to_le_bytes().to_vec()]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let line = EventWriter::create(Path::new("no/such/folder"), 1.0, None).unwrap_err().to_string();
        assert!(line.starts_with("cannot create no/such/folder/events.out.tfevents.1"), "{line}");
    }
}
