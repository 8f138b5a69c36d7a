//! A set of measured values and what is said about it.

use serde_json::{Value, json};

/// Measured values of one kind, sorted; never empty.
#[derive(Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// # Panics
    /// When there are no values: a measure that measured nothing must not look like a good one.
    pub fn new(mut values: Vec<f64>) -> Samples {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which the share `q` of all values lies (nearest rank).
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    pub fn to_json(&self) -> Value {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({ "n": self.len(), "min": round(self.min()), "median": round(self.median()), "p99": round(self.p99()),
                "max": round(self.max()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let samples = Samples::new((1..=100).rev().map(f64::from).collect());
        assert_eq!(samples.median(), 50.0);
        assert_eq!(samples.p99(), 99.0);
        assert_eq!((samples.min(), samples.max()), (1.0, 100.0));
        assert_eq!(Samples::new(vec![7.0]).p99(), 7.0);
    }

    #[test]
    #[should_panic(expected = "nothing was measured")]
    fn no_values_are_not_a_result() {
        Samples::new(Vec::new());
    }
}
