//! One decoder under libFuzzer; `EKUIPER_FUZZ_TARGET` names it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<ekuiper_fuzz::Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("EKUIPER_FUZZ_TARGET").unwrap_or_default();
        let known = || ekuiper_fuzz::TARGETS.map(|(name, _)| name).join(", ");
        let target = ekuiper_fuzz::target(&name);
        let _ = TARGET.set(target.unwrap_or_else(|| panic!("EKUIPER_FUZZ_TARGET must be one of {}", known())));
    },
    |data: &[u8]| TARGET.get().expect("set above")(data)
);
