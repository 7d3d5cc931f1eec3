//! Medians, spreads and ratios of several rounds.

/// Summary of one figure over several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Median of the rounds.
    pub median: f64,
    /// Minimum of the rounds.
    pub least: f64,
    /// Maximum of the rounds.
    pub greatest: f64,
}

impl Summary {
    /// Returns the summary of the rounds; `None` without rounds.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: middle(&sorted), least, greatest })
    }

    /// Returns half of the range from minimum to maximum, in percent of the
    /// median: "± so much".
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.greatest - self.least) / 2.0 / self.median.abs() * 100.0 }
    }
}

/// Returns the median of the ratios of each round, since a disturbance of the
/// machine affects both figures of a round.
pub fn ratio(of: &[f64], to: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = of.iter().zip(to).filter(|(_, to)| **to != 0.0).map(|(of, to)| of / to).collect();
    Summary::of(&ratios).map(|summary| summary.median)
}

/// Returns the smallest value that `percent` of a sorted list do not exceed; 0
/// for an empty list.
pub fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[half - 1], sorted[half]) } else { sorted[half] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_and_half_the_range() {
        let summary = Summary::of(&[12.0, 8.0, 10.0]).unwrap();
        assert_eq!((summary.median, summary.least, summary.greatest), (10.0, 8.0, 12.0));
        assert_eq!(summary.spread(), 20.0);
        assert_eq!(Summary::of(&[1.0, 2.0, 4.0, 8.0]).unwrap().median, 3.0);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[0.0]).unwrap().spread(), 0.0);
    }

    #[test]
    fn a_ratio_compares_round_by_round() {
        // In the second round the machine was twice as slow, for both.
        assert_eq!(ratio(&[80.0, 160.0, 80.0], &[10.0, 20.0, 10.0]), Some(8.0));
        assert_eq!(ratio(&[1.0], &[0.0]), None);
        assert_eq!(ratio(&[1.0, 6.0], &[2.0]), Some(0.5));
    }

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let all: Vec<u32> = (1..=200).collect();
        assert_eq!((percentile(&all, 50), percentile(&all, 99)), (100, 198));
        assert_eq!((percentile(&all[..3], 50), percentile(&all[..1], 99), percentile(&[], 50)), (2, 1, 0));
    }
}
