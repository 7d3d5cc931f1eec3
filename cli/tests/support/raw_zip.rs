//! Zips that no tool writes: what they announce and what they hold differ.

use std::path::Path;

/// An entry: its name, Unix mode, compression method (0 stored, 8 deflated),
/// content as stored, and the size that is announced.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) mode: u32,
    pub(crate) method: u16,
    pub(crate) stored: &'a [u8],
    pub(crate) announced: u32,
}

impl<'a> Entry<'a> {
    /// A plain file.
    pub(crate) fn file(name: &'a str, content: &'a [u8]) -> Self {
        Self { name, mode: 0o100_644, method: 0, stored: content, announced: content.len() as u32 }
    }
}

/// Writes a zip of these entries, as they are.
pub(crate) fn write(path: &Path, entries: &[Entry<'_>]) {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = zip.len() as u32;
        let mut common = Vec::new();
        common.extend(20u16.to_le_bytes());
        common.extend(0u16.to_le_bytes());
        common.extend(entry.method.to_le_bytes());
        // Midnight of 1980-01-01.
        common.extend([0, 0, 0x21, 0]);
        common.extend(crc32(if entry.method == 0 { entry.stored } else { &[] }).to_le_bytes());
        common.extend((entry.stored.len() as u32).to_le_bytes());
        common.extend(entry.announced.to_le_bytes());
        common.extend((entry.name.len() as u16).to_le_bytes());
        common.extend(0u16.to_le_bytes());
        zip.extend(b"PK\x03\x04");
        zip.extend(&common);
        zip.extend(entry.name.as_bytes());
        zip.extend(entry.stored);
        directory.extend(b"PK\x01\x02");
        // Made on Unix.
        directory.extend([20, 3]);
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let start = zip.len() as u32;
    let count = (entries.len() as u16).to_le_bytes();
    zip.extend(&directory);
    zip.extend(b"PK\x05\x06\0\0\0\0");
    zip.extend([count, count].concat());
    zip.extend((directory.len() as u32).to_le_bytes());
    zip.extend(start.to_le_bytes());
    zip.extend([0, 0]);
    std::fs::write(path, zip).unwrap();
}

/// Returns zeros, deflated: at least this many.
pub(crate) fn zeros(count: u64) -> Vec<u8> {
    // A block with fixed codes: one zero, then copies of it, 258 at a time.
    // Such a copy is 13 bits: 11000101, and 00000 for the distance 1; eight of
    // them are 13 bytes.
    let mut bits: Vec<bool> = vec![true, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    let copy = [true, true, false, false, false, true, false, true, false, false, false, false, false];
    // Until the copies begin at a byte's first bit.
    while !bits.len().is_multiple_of(8) {
        bits.extend(copy);
    }
    let pack = |bits: &[bool]| -> Vec<u8> {
        bits.chunks(8).map(|byte| byte.iter().zip(0..).map(|(bit, place)| u8::from(*bit) << place).sum()).collect()
    };
    let mut deflated = pack(&bits);
    let eight: Vec<bool> = copy.iter().copied().cycle().take(8 * copy.len()).collect();
    deflated.extend(pack(&eight).repeat(count.div_ceil(8 * 258) as usize));
    // The end of the block, seven zeros.
    deflated.push(0);
    deflated
}

fn crc32(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, next)
}

/// Writes a zip that lists a million empty files, in 54 MB.
pub(crate) fn write_million(path: &Path) {
    const COUNT: u64 = 1_000_000;
    const HEADER: [u8; 46] = {
        let mut header = [0; 46];
        // Signature, version 2.0, made on Unix, and a name of eight bytes.
        (header[0], header[1], header[2], header[3]) = (b'P', b'K', 1, 2);
        (header[4], header[5], header[6], header[28]) = (20, 3, 20, 8);
        header
    };
    let mut zip = Vec::with_capacity(COUNT as usize * 54 + 98);
    for number in 0..COUNT {
        zip.extend(HEADER);
        zip.extend(format!("{number:08}").as_bytes());
    }
    let size = zip.len() as u64;
    // The end of the list with fields of 64 bits, where that is, and the usual
    // end, which says that its fields are too small.
    zip.extend(b"PK\x06\x06");
    zip.extend(44u64.to_le_bytes());
    zip.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    zip.extend([COUNT, COUNT, size, 0].iter().flat_map(|field| field.to_le_bytes()));
    zip.extend(b"PK\x06\x07\0\0\0\0");
    zip.extend(size.to_le_bytes());
    zip.extend(1u32.to_le_bytes());
    zip.extend(b"PK\x05\x06\0\0\0\0");
    zip.extend([0xff; 12]);
    zip.extend([0, 0]);
    std::fs::write(path, zip).unwrap();
}

/// Returns zeros as `deflate` would have them: a zero, and repetitions of it.
pub(crate) fn deflated_zeros(length: u64) -> Vec<u8> {
    /// What one repetition stands for.
    const REPETITION: u64 = 258;
    // Bits in the order of the format, as texts: the last block with the fixed
    // code, a zero; the length 258 at distance 1.
    let (begin, repetition) = ("11000110000", "1100010100000");
    let bits = |text: &str| -> Vec<u8> {
        let bytes = text.as_bytes().chunks_exact(8);
        bytes.map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | (bit - b'0'))).collect()
    };
    // 8 repetitions are 13 bytes, and the beginning of the next is where theirs
    // was.
    let first = bits(&(begin.to_owned() + &repetition.repeat(17)));
    let (head, cycle) = (&first[..13], &first[13..26]);
    let mut zeros = head.to_vec();
    (0..length / REPETITION / 8).for_each(|_| zeros.extend(cycle));
    zeros
}
