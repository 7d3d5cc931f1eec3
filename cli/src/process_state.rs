//! What the kernel says of a process.

/// Returns the letter of a process's state, `R` for one that runs; `None` if
/// there is no such process.
pub(crate) fn of(process: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_state_where_there_is_a_process() {
        assert!(of(std::process::id()).is_some());
        assert_eq!(of(u32::MAX), None);
    }
}
