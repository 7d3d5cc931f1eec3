//! The symbols of a plugin that are counted, and the counts of those that were
//! closed.

use std::ops::Deref;
use std::sync::{Arc, Mutex, Weak};

use ekuiper_core::message::SymbolKind;

use super::SymbolHealth;
use super::vitals::{Place, Vitals};
use crate::status::Traffic;
use crate::sync::lock;

/// The counted symbols of a plugin. Its lock is taken when a symbol is opened
/// or closed, and by snapshots.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    open: Vec<Entry>,
    /// Counts of those that were closed.
    closed: Traffic,
}

struct Entry {
    vitals: Arc<Vitals>,
    user: Weak<Counted>,
}

/// A symbol that is counted as long as this exists.
pub(crate) struct Counted {
    vitals: Arc<Vitals>,
    ledger: Arc<Ledger>,
}

impl Counted {
    /// Returns the counters, for what may outlive the symbol.
    pub(crate) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }
}

impl Deref for Counted {
    type Target = Vitals;

    fn deref(&self) -> &Vitals {
        &self.vitals
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut entries = lock(&self.ledger.0);
        entries.open.retain(|entry| !Arc::ptr_eq(&entry.vitals, &self.vitals));
        entries.closed += self.vitals.traffic();
    }
}

impl Ledger {
    /// Counts a function; those of the same place together.
    pub(crate) fn function(self: &Arc<Self>, place: Place, restarts: u64) -> Arc<Counted> {
        let mut entries = lock(&self.0);
        let same = entries.open.iter().find(|entry| *entry.vitals.place() == place && entry.user.strong_count() > 0);
        // The last user may drop it right now.
        if let Some(counted) = same.and_then(|entry| entry.user.upgrade()) {
            return counted;
        }
        self.enter(&mut entries, Vitals::of_function(place, restarts))
    }

    /// Counts a source.
    pub(crate) fn source(self: &Arc<Self>, place: Place, restarts: u64) -> Arc<Counted> {
        self.enter(&mut lock(&self.0), Vitals::of_source(place, restarts))
    }

    /// Counts a sink, whose window of unacknowledged messages is given if it
    /// acknowledges.
    pub(crate) fn sink(self: &Arc<Self>, place: Place, restarts: u64, window: Option<u64>) -> Arc<Counted> {
        self.enter(&mut lock(&self.0), Vitals::of_sink(place, restarts, window))
    }

    fn enter(self: &Arc<Self>, entries: &mut Entries, vitals: Vitals) -> Arc<Counted> {
        let vitals = Arc::new(vitals);
        let counted = Arc::new(Counted { vitals: vitals.clone(), ledger: self.clone() });
        entries.open.push(Entry { vitals, user: Arc::downgrade(&counted) });
        counted
    }

    /// Returns the open symbols, functions first. Sources and sinks count the
    /// restarts of the plugin's first process, functions those of all.
    pub(crate) fn symbols(&self, restarts: u64, all_restarts: u64) -> Vec<SymbolHealth> {
        // Read without the lock, which openings and closings need.
        let open: Vec<_> = {
            let entries = lock(&self.0);
            let is_open = |entry: &&Entry| !entry.vitals.is_closed() && entry.user.strong_count() > 0;
            entries.open.iter().filter(is_open).map(|entry| entry.vitals.clone()).collect()
        };
        let restarts = |kind| if kind == SymbolKind::Function { all_restarts } else { restarts };
        let health = |vitals: &Arc<Vitals>| vitals.health(restarts(vitals.place().kind));
        let mut symbols: Vec<_> = open.iter().map(health).collect();
        symbols.sort_by_key(|symbol| symbol.kind != SymbolKind::Function);
        symbols
    }

    /// Returns the counts of all symbols, those that were closed included.
    pub(crate) fn traffic(&self) -> Traffic {
        let entries = lock(&self.0);
        let mut traffic = entries.closed;
        entries.open.iter().for_each(|entry| traffic += entry.vitals.traffic());
        traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_core::message::Meta;
    use std::time::Instant;

    fn place(name: &str, rule: &str) -> Place {
        let meta = Meta { rule_id: rule.into(), ..Meta::default() };
        Place { kind: SymbolKind::Function, name: name.into(), meta }
    }

    #[test]
    fn rules_are_told_apart_and_what_was_closed_stays_in_the_sum() {
        let ledger = Arc::new(Ledger::default());
        let one = ledger.function(place("f", "a"), 0);
        let same = ledger.function(place("f", "a"), 0);
        let other = ledger.function(place("f", "b"), 0);
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        one.begin(1, Instant::now()).end(&Ok(()));
        same.begin(1, Instant::now()).end(&Ok(()));
        other.begin(5, Instant::now()).end(&Ok(()));
        let counts = || {
            let symbols = ledger.symbols(0, 0);
            symbols.into_iter().map(|symbol| (symbol.meta.rule_id, symbol.rows_in)).collect::<Vec<_>>()
        };
        assert_eq!(counts(), [("a".to_owned(), 2), ("b".to_owned(), 5)]);
        drop((one, same));
        assert_eq!(counts(), [("b".to_owned(), 5)]);
        other.close();
        assert_eq!(counts(), []);
        assert_eq!((ledger.traffic().calls, ledger.traffic().answers), (7, 7));
        drop(other);
        assert_eq!((ledger.traffic().calls, ledger.traffic().answers), (7, 7));
    }
}
