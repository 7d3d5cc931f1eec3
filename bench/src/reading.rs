//! The record that sources emit and sinks take: a sensor reading, as JSON of a
//! chosen length.

use serde::{Deserialize, Serialize};

/// The first number; all numbers have as many digits.
const FIRST: u64 = 1_000_000_000;

/// A sensor's reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Sequence number.
    pub id: u64,
    /// Temperature in degrees.
    pub temperature: f64,
    /// Humidity in percent.
    pub humidity: f64,
    /// Whether something is wrong.
    pub alarm: bool,
    /// Text that pads the record to its length.
    pub note: String,
}

impl Reading {
    /// Creates a reading with this note.
    pub fn with_note(note: String) -> Self {
        Self { id: FIRST, temperature: 21.625, humidity: 48.25, alarm: false, note }
    }

    /// One whose JSON has `size` bytes; at least as many as it has without a
    /// note.
    pub fn of_size(size: usize) -> Self {
        let bare = Self::with_note(String::new());
        let length = serde_json::to_string(&bare).map_or(0, |text| text.len());
        Self::with_note(text(size.saturating_sub(length)))
    }
}

/// A text of so many bytes, none of which JSON has to escape.
pub fn text(size: usize) -> String {
    "the quick brown fox jumps over the lazy dog; ".chars().cycle().take(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_as_long_as_it_is_to_be() {
        for size in [128, 129, 1024] {
            let mut reading = Reading::of_size(size);
            assert_eq!(serde_json::to_string(&reading).unwrap().len(), size);
            reading.id += 1_000_000;
            assert_eq!(serde_json::to_string(&reading).unwrap().len(), size);
        }
    }
}
