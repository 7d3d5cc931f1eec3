//! The function `double`.

/// Twice the value. Rules are checked against the number and the types of the
/// arguments; return a `Result` where a call may fail.
pub(crate) fn double(value: f64) -> f64 {
    value * 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::testing;

    #[test]
    fn a_number_is_doubled() {
        assert_eq!(testing::function(double).call::<f64>((21,)), Ok(42.0));
    }

    #[test]
    fn a_text_is_refused() {
        let error = testing::function(double).call::<f64>(("21",)).unwrap_err();
        assert!(error.starts_with("invalid argument 1:"), "{error}");
    }
}
