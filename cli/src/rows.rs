//! Rows by what has become of them.

use std::ops::AddAssign;

use ekuiper_host::Delivery;

use crate::progress::grouped;

/// Number of rows in each final state. A row is in exactly one, so the number
/// of all rows is their sum, and is not counted itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    /// The sink is known to have collected the row, and did not refuse it.
    pub(crate) delivered: u64,
    /// The row is known not to be delivered: the sink refused it, or it failed
    /// before it reached the sink.
    pub(crate) failed: u64,
    /// Neither is known.
    pub(crate) unknown: u64,
    /// A filter did not let the row pass, as it should.
    pub(crate) filtered: u64,
}

impl Rows {
    /// Returns the number of all rows.
    pub(crate) fn all(&self) -> u64 {
        self.delivered + self.failed + self.unknown + self.filtered
    }

    /// Describes the rows that are not known to be delivered, and were not
    /// filtered, with the plural of what they are; `None` if there are none.
    pub(crate) fn problem(&self, plural: &str) -> Option<String> {
        let (all, failed, unknown) = (grouped(self.all()), grouped(self.failed), grouped(self.unknown));
        match (self.failed, self.unknown) {
            (0, _) => self.uncertainty(plural),
            (_, 0) => Some(format!("{failed} of {all} {plural} failed")),
            _ => Some(format!("{failed} of {all} {plural} failed, and the outcome of {unknown} is unknown")),
        }
    }

    /// Describes the rows of unknown outcome, with the plural of what they are;
    /// `None` if there are none.
    pub(crate) fn uncertainty(&self, plural: &str) -> Option<String> {
        let (all, unknown) = (grouped(self.all()), grouped(self.unknown));
        (self.unknown > 0).then(|| format!("the outcome of {unknown} of {all} {plural} is unknown"))
    }
}

impl From<Delivery> for Rows {
    fn from(delivery: Delivery) -> Self {
        Self { delivered: delivery.delivered, failed: delivery.refused, unknown: delivery.unknown(), filtered: 0 }
    }
}

impl AddAssign for Rows {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.filtered += other.filtered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_delivered_is_said_in_one_clause() {
        let said =
            |failed, unknown| Rows { delivered: 999, failed, unknown, filtered: 1 }.problem("rows").unwrap_or_default();
        assert_eq!([said(0, 0), said(1, 0)], ["", "1 of 1,001 rows failed"]);
        assert_eq!(said(0, 2), "the outcome of 2 of 1,002 rows is unknown");
        assert_eq!(said(1, 2), "1 of 1,003 rows failed, and the outcome of 2 is unknown");
    }
}
