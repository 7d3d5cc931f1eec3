//! The identity of symbols under test.

use ekuiper_core::message::Meta;

/// The rule, operator and instance of a symbol under test.
pub(super) fn test_meta() -> Meta {
    Meta { rule_id: "test".into(), op_id: "test".into(), instance_id: 0 }
}
