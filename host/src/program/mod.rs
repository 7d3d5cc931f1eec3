//! Program files: where one lies, and why it cannot be started.

pub(crate) mod search;
pub(crate) mod unstartable;
